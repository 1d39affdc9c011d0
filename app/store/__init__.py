"""The only package that speaks SQL, for SQLite and PostgreSQL alike.

One store per noun, with its row mapping inside; `tables/` says what rows mean, `db/` holds connections, transactions,
paging, group commit and the write queue. Stores take a session and return domain values, never rows; the caller that
opened the transaction decides what belongs in it.
"""
