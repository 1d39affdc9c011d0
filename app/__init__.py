"""Registry sync as an API, drawn as a house: request → job → plan → copy → report.

    DOORS          api/ (programs)                   HTTP in, JSON out, no decisions
    DESK           desk/                             what is answered at once: keys, registries, policies, previews
    ENGINE ROOM    jobs/                             the life of a job
    WORKSHOP       sync/                             what a sync does; knows registries, no databases
    ROAD           registry/                         the distribution-spec client
    MAIL ROOM      hooks/                            push events in, notifications out
    CELLAR         store/                            the only room that speaks SQL
    WORDS          domain/                           pure values, imported by every room

Beside them `security.py` (keys, seals, address rules), `dialing.py` (connections to checked addresses), `wiring/`
(settings become live services), `main.py` (the web application) and `cli.py` (every process and chore). Imports go down
only; `pyproject.toml` holds the contract.
"""
