"""What a sync does: plan, compare, copy. Knows registries; no databases, no frameworks, no webhooks.

    planner.py ─► tag_lists.py, selection.py      request → planned copies: list, select, map
      ├─ taken_images.py ─► image_metadata.py     conditions on images themselves: kind, creation time, platforms
      └─ explanation.py, rule_explanation.py      why a rule takes a tag, or drops it
    push_rules.py                                 what one pushed tag comes to in a policy
    copier.py                                     one planned copy, tried again where that may help
      ├─ compare.py ─► rewrite.py                 what both sides have, and what is to be done about it
      ├─ graph.py                                 everything below a manifest that a destination lacks; the tag last
      ├─ referrers.py ─► referrers_tag.py         what belongs to it without being below it: referrers, digest tags
      └─ blobs.py ─► transfer.py, source_blob.py  each blob: known → mounted → found → sent, verified on the way
           └─ new_repositories.py                 a destination's repository that is new is asked for no blob
    dry_run.py                                    what copies before would have brought, for a plan
    destination.py                                one destination: its state, its progress, what is noted of it
    known_blobs.py                                which repository holds which blob, and whose upload is open

`selection` and `push_rules` are pure.
"""
