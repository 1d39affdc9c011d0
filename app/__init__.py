"""Copy container images from registry to registry, as jobs behind a REST API: request → job → plan → copy → report.

    cli, main              processes, the web application and the command line
    console                pages for people
    api                    HTTP for programs; decides nothing
    processes              the supervisor of a host, which forks the API and the workers
    bootstrap              composition root: settings become live services
    services | worker      use cases, one per noun | what a worker process does
    jobs                   the life of a job: submission, transitions, cancellation, outbox, queue
    sync                   what a sync does: plan, compare, copy; knows registries, no databases
    registry | store | webhooks | importers      distribution-spec client | SQL | events in and out | other tools' files
    net, security          connections to checked addresses (SSRF guard) | API keys, encryption at rest
    domain                 pure values, imported by every package

Imports go down only; `pyproject.toml` holds the contract, docs/architecture.md the walks.
"""
