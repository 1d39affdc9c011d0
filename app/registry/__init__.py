"""A client for registries that speak the OCI distribution spec, and those that nearly do.

    client.py                  one method per spec operation; the pool of clients
              manifests.py, blobs.py, referrers.py   the operations
              requests.py      one request and its response: permit, token, redirects, retries, errors
              uploads.py       upload sessions, whole or chunked, and their bodies; read_ahead.py: their buffer
              quirks.py        what each vendor does differently
              creation.py      repositories that are made where the first push does not make them
              permissions.py   what a login may do, as far as a registry says so
              limits.py        bounds of what is read from registries
    http/                      connections, TLS, URLs, which host may see credentials, what an error means
    auth/                      challenge → token per scope; credentials per entry
    ratelimit/                 concurrency window (AIMD), Retry-After, token buckets, retries
    listing/                   tags and repositories, by the catalog or the vendor's own API

Knows registries only: no database, no jobs.
"""
