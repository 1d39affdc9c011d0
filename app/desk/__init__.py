"""The desk: what is answered at once, without a job: API keys, registry entries, checks, previews.

    keys.py          make, tell, revoke API keys
    registries.py    enter and change registries; the rules that keep their secrets where they belong
    checks.py        can a registry be reached, logged in to, listed, pushed to?
    previews.py      what a request would do, copying nothing

Stands above the rooms it uses (`sync`, `registry`, `store`) and below the doors; jobs have a room of their own.
"""
