"""How hard a registry is asked: AIMD window, token buckets, `Retry-After` and `RateLimit-*` headers, retries."""
