"""Tests of `app.store`, each on SQLite and PostgreSQL."""
