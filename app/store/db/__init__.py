"""The database beneath the stores: connections, transactions, write queue, change feed, schema.

database.py        transactions, group commit, change feed; sqlite.py: SQLite's connection and write queue
migrate.py         bring a database to the current schema; schema.py: which schema it has
process_lock.py    one worker beside an embedded database
name_patterns.py   patterns of names in statements
column_types.py    types that behave the same on both databases
"""
