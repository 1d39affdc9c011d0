"""The schema's revisions; Alembic finds them by path, `app.store.db.migrate` runs them."""
