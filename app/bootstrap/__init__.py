"""Composition root: settings become live services here, for every process.

    service.py   what the doors and the worker use, and the one factory of it
    startup.py   the chores before the first request: schema, first key, secret keys

Stands below the doors (`api`, `cli`) and above everything it puts together.
"""
