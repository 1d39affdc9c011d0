"""Copy container images from registry to registry, as jobs behind a REST API: request → job → plan → copy → report.

    cli/, main.py          processes, the web application and the command line
    console/               pages for people
    api/                   HTTP for programs; decides nothing
    processes/             the supervisor of a host, which forks the API and the workers
    process_channel.py     messages between the two
    bootstrap/             composition root: live services, made from settings.py
    services/              use cases, one per noun
    worker/                what a worker process does
    jobs/                  the life of a job: submission, transitions, cancellation, outbox, queue
    sync/                  what a sync does: plan, compare, copy; knows registries, no databases
    registry/, store/      distribution-spec client, SQL
    webhooks/, importers/  events in and out, other tools' files
    net/, security.py      connections to checked addresses (SSRF guard), API keys and encryption at rest
    concurrency.py         waiting with limits, backoff; clock.py: the time source
    observability.py       metrics and logs; tracing.py: spans; redaction.py: texts without credentials
    domain/                pure values, imported by every package

Imports go down only; `pyproject.toml` holds the contract, docs/architecture.md the walks.
"""
