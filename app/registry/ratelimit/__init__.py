"""How hard a registry is asked: adaptive concurrency (AIMD), pauses (`Retry-After`), token buckets, quotas.

adaptive_concurrency.py   the concurrency window and its permits
quota_headers.py          rate limit headers, and what is remembered of a registry
token_bucket.py           requests or bytes a second
"""
