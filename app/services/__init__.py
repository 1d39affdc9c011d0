"""Use cases, one file per noun. Every business rule is here: who may, which hosts, which notify URL.

    jobs.py              submit, read, cancel, retry, delete jobs
    plans.py             what a request would do, copying nothing
    registries.py        create and change registry entries; the rules that keep their secrets where they belong
    registry_checks.py   can a registry be reached, logged in to, listed, pushed to?
    policies.py          create and change policies (recurring syncs), run one now
    importing.py         policies and registries from other tools' configuration
    push_events.py       verify and record what registries say was pushed
    push_deduplication.py many push events in one commit; duplicate ones are recognised
    subscriptions.py     create and test subscriptions; list deliveries, redeliver one
    api_keys.py          create, find, revoke API keys
    audit.py             list audit entries

Stands above `jobs`, `sync` and `store`, and below the doors (`api`, `cli`).
"""
