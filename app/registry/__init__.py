"""The road: a client for registries that speak the OCI distribution spec, and those that nearly do.

    pool.py → client.py     one method per spec operation: listing, manifests, blobs, uploads, referrers
              apis.py       repositories by registries' own APIs; quirks.py says which type has what
              exchange.py   one request and its answer: credentials, turns, redirects, retries, errors
              auth.py       challenge → token per scope; trust.py says which host may be told what
              pressure.py   how hard one registry is asked, by everything in this process together
              transport.py  httpx's seam, over app/dialing.py: every address is checked before it is connected to

Knows registries only: no database, no jobs. May import `domain`, `security` and `dialing`; it and `hooks` alone know
httpx.
"""
