"""The only package that speaks SQL, for SQLite and PostgreSQL alike.

Stores take a session and return domain values, never rows; the caller that opened the transaction decides what belongs
in it. One store per noun, with its row mapping inside:

    jobs.py, job_filters.py   jobs, and the filters of their list
    images.py                 images of jobs; planned_images.py: those of a plan, planned_blobs.py: what each would send
    units.py                  units, fencing tokens, locks of destination tags
    idempotency.py            callers' names for requests
    concurrency_groups.py     jobs that run one after another
    heartbeats.py             which workers live
    backlog.py                figures for metrics
    policies.py               recurring syncs; policy_summaries.py: their days
    registries.py             registry entries; registry_states.py: how workers stand with them
    registry_limits.py        windows and pauses that workers share
    blob_locations.py         where blobs may be mounted from; upload_sessions.py: open uploads
    destination_notes.py      what is noted of destinations; push_origins.py: loop detection
    hook_events.py            push events
    subscriptions.py          subscriptions; deliveries.py: the outbox
    api_keys.py, audit.py     who may, and who did
    tables/                   what rows mean
    db/                       connections, transactions, group commit, write queue
"""
