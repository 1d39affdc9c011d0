"""The desk: what is answered at once, without a job.

    keys.py          make, tell, revoke API keys
    registries.py    enter and change registries; the rules that keep their secrets where they belong
    checks.py        can a registry be reached, logged in to, listed, pushed to?
    previews.py      what a request would do, copying nothing
    policies.py      keep and change policies, run one now
    imports.py       make policies and registries of other tools' files
    push_events.py   take in what registries say was pushed
    push_log.py      what arrived, stored once and for good, many deliveries in one commit
    subscriptions.py enter and test subscriptions; look at deliveries, send one again
    audit.py         who changed what

Stands above the rooms it uses (`jobs`, `sync`, the pipes) and below the doors; the life of a job is the engine room's.
"""
