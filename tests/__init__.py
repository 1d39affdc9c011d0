"""Tests: a mirror of `app/`, with the lanes described in `tests/support`."""
