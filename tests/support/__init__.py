"""What tests stand on: real registries, a real PostgreSQL, content to copy, and a client that trusts nothing of `app`.

Nothing here imports `app`: these modules verify it.
"""
