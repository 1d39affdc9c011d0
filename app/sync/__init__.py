"""The workshop: what a sync does. Knows registries; no databases, no frameworks, no hooks.

    planner.py ─► selection, mapping       request → planned copies: list, select, map
    narrowing.py                           what one pushed tag comes to in a policy
    copier.py ─► attempt                   one planned copy, tried again where that may help
      ├─ compare.py ─► rewrite             what both sides have, and what is to be done about it
      ├─ graph.py                          everything below a manifest that a destination lacks
      ├─ companions.py, fallback.py        what belongs to it without being below it: referrers, digest tags
      ├─ blobs.py ─► transfer ─► stream    each blob: known → mounted → found → sent, verified on the way
      └─ publish.py                        manifests, children first; the tag at the very end
    known_blobs.py                         what this process knows of who holds which blob
    open_uploads.py                        sessions that are given back, or noted for when a process dies

`selection`, `mapping` and `narrowing` are pure. May import `domain`, `registry` and `observability`.
"""
