"""A client for registries that speak the OCI distribution spec, and those that nearly do.

    client.py                  one method per spec operation: listing, manifests, blobs, uploads, referrers; the pool
              requests.py      one request and its response: permit, token, redirects, retries, errors
              uploads.py       upload sessions, whole or chunked, and their bodies
              quirks.py        what each vendor does differently
    http/                      connections, TLS, URLs, which host may see credentials, what an error means
    auth/                      challenge → token per scope; credentials per entry
    ratelimit/                 concurrency window (AIMD), Retry-After, token buckets, retries
    listing/                   tags and repositories, by the catalog or the vendor's own API

Knows registries only: no database, no jobs. May import `domain`, `security` and `net`; it and `webhooks` alone know
httpx.
"""
