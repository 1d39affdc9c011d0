"""Tests of `app.jobs`: on SQLite and PostgreSQL alike, with real workers; registries stand in `workshops`."""
