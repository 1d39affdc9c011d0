"""Importers: configuration files of other tools, read as policies and registries.

Texts go in, values come out; nothing is read from disk, from the environment or from a registry, and nothing is stored.
Each reader lists what it could not carry over and where a carried rule behaves differently on purpose, with the place
it stands at. May import `domain` only; it is a pipe beside `registry`, `store` and `hooks`.
"""
