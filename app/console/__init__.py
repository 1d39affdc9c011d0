"""The operator console at `/console`: pages for people, made by the service itself.

Templates are Jinja2's, live parts are asked for again by htmx (no build step, nothing from another host). A page uses
services as the API does, with the caller's scopes.
"""
