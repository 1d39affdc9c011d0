"""The cellar: the only room that speaks SQL, for SQLite and PostgreSQL alike.

Stores take a session and return domain values, never rows; whoever opened the transaction decides what belongs in it.
Imports `app.domain` and `app.security`, nothing else of the house.
"""
