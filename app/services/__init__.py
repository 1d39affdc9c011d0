"""Use cases, one file per noun. Every business rule is here: who may, which hosts, which notify URL.

jobs.py                  submit, read, cancel, retry, delete jobs
admission.py             may this caller have this copied: hosts, grants, notifications
job_quota.py             how many jobs of one key may be under way
plans.py                 what a request would do, copying nothing
registries.py            create and change registry entries; the rules that keep their secrets where they belong
registry_checks.py       can a registry be reached, logged in to, listed, pushed to? check_requests.py: its requests
policies.py              create and change policies (recurring syncs), run one now
importing.py             policies and registries from other tools' configuration
push_events.py           verify and record what registries say was pushed
push_deduplication.py    many push events in one commit; duplicate ones are recognised
subscriptions.py         create and test subscriptions; list deliveries, redeliver one
api_keys.py              create, find, revoke API keys
caller_tokens.py         who an OpenID Connect token is of, and what it may do
authentication_guard.py  wrong keys and secrets are slowed down, counted, audited
console_sessions.py      sessions of the console
versions.py              a change may name the version it was made of (optimistic locking)
audit.py                 list audit entries
gauges.py                figures of the database that metrics show
"""
