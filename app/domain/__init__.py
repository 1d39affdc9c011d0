"""Pure values and rules that every package imports and that import none.

Nothing here does I/O, reads a clock or knows a framework; pydantic is allowed because requests and registry entries
cross the JSON border as they are.

    request.py            a sync request; selection.py: what a rule selects; pattern.py: sources and destinations
    matcher.py            matchers of names: glob.py, expression.py (RE2), version.py (semver ranges)
    job.py                a job, its images, their states; plan.py: copies before any byte moves
    report.py             what became of a job; explanation.py: why a tag is taken or dropped
    policy.py             recurring syncs; schedule.py: cron; policy_summary.py: a policy's day
    reference.py          names of things in registries; manifest.py: manifests, indexes, descriptors
    registry.py           registry entries; registry_logins.py: their logins; registry_state.py: how one stands
    push_event.py         push events and hooks; hook_event.py: one as it is recorded
    notification.py       subscriptions and deliveries; notify_url.py: their addresses; dead_letter.py: their retries
    access.py             callers, keys, scopes; grants.py: what a key is bound to; token_rules.py: OpenID Connect
    audit.py              entries of the audit log
    page.py               keyset pages of lists, and their cursors
    errors.py             the exception tree
    retry_policy.py       backoff; duration.py: `30s`, `5m`
    tagged_value.py       values of several kinds by their `type`
"""
