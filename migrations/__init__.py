"""The schema's revisions; Alembic finds them by path, `app.store.migrate` runs them."""
