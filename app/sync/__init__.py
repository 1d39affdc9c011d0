"""The workshop: what a sync does. Knows registries; no databases, no frameworks, no hooks.

    planner.py ─► selection, mapping       request → planned copies: list, select, map
    copier.py                              one planned copy: compare, gather, move, publish; tries again
      ├─ compare.py                        what both sides have, and what is to be done about it
      ├─ graph.py                          everything below a manifest that a destination lacks
      ├─ transfer.py ─► stream             one blob: known → mounted → sent, verified on the way
      ├─ publish.py                        manifests, children first; the tag at the very end
      └─ companions.py                     what belongs to an image without being below it: referrers, digest tags
    known_blobs.py                         what this process knows of who holds which blob

`selection` and `mapping` are pure. May import `domain`, `registry` and `observability`.
"""
