"""The processes of one host: a supervisor forks the API and the workers, restarts them, and carries their messages.

    supervisor.py       keeps each process alive, drains all of them at the end, relays messages, ends what is stuck
    forking.py          one process: fork, ends with its parent, exit code
    unit_dispatcher.py  beside SQLite: the queue in memory, and which process runs which unit
    blob_locks.py       which process sends which blob where
    cores.py            how many worker processes there are by default

The supervisor opens no connection to a database or a registry: nothing from outside reaches it.
"""
