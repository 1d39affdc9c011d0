"""The tables, one file per group. What a row means is said here once; what may be done with it, by the stores.

jobs.py            jobs, labels, images, units, workers, locks
queue.py           the queue's own tables on PostgreSQL
policies.py        recurring syncs, concurrency groups, push events, push origins
registries.py      registry entries, limits, blob locations, open uploads
destinations.py    what is known of destinations
notifications.py   subscriptions and deliveries
access.py          API keys and the audit log
declarative.py     what all tables share
"""
