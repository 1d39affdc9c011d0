"""What a sync does: plan, compare, copy. Knows registries; no databases, no frameworks, no webhooks.

    planner.py ─► tag_lists, selection     request → planned copies: list, select, map
      ├─ taken_images ─► image_metadata    conditions on images themselves: kind, creation time, platforms
      └─ explanation, rule_explanation     why a rule takes a tag, or drops it
    push_rules.py                          what one pushed tag comes to in a policy
    copier.py                              one planned copy, tried again where that may help
      ├─ compare.py ─► rewrite             what both sides have, and what is to be done about it
      ├─ graph.py                          everything below a manifest that a destination lacks; the tag at the very end
      ├─ referrers.py ─► referrers_tag     what belongs to it without being below it: referrers, digest tags
      └─ blobs.py ─► transfer, source_blob each blob: known → mounted → found → sent, verified on the way
           └─ new_repositories             a destination's repository that is new is asked for no blob
    dry_run.py                             what copies before would have brought, for a plan
    destination.py                         one destination: its state, its progress, what is noted of it
    known_blobs.py                         which repository holds which blob, and whose upload is open

`selection` and `push_rules` are pure.
"""
