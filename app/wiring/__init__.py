"""Settings become live services here, for every door.

    service.py      what the doors use, and the one factory of it
    workshops.py    the planner and copier a worker's units get
    preparing.py    the chores before the first request: schema, first key, secret keys

Stands right below the doors and above everything it puts together.
"""
