"""The operator console at `/console`: pages for people, made by the service itself.

Templates are Jinja2's, live parts are asked for again by htmx (no build step, nothing from another host). A page uses
services as the API does, with the caller's scopes.

    session.py         login, session, forms that only these pages send
    job_pages.py       jobs, plans, images; commands.py: a job as lines for a terminal
    settings_pages.py  registries, policies, subscriptions, keys
    formatting.py      times, sizes and states as pages show them
    templates/, static/   pages; style sheet and scripts
"""
