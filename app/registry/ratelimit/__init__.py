"""How hard a registry is asked: adaptive concurrency (AIMD), pauses (`Retry-After`), token buckets, quotas."""
