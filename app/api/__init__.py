"""HTTP for programs: requests in, JSON out, no decisions.

A route reads the request, calls one service, and renders what comes back. Who may call is said on each route by a
scope; what an exception becomes is said once.

    jobs.py, plan.py, policies.py, registries.py, subscriptions.py, keys.py, audit.py   the routes of one noun each
    events.py          a job's progress: server-sent events and pages
    hooks.py           push events of registries come in, and are listed
    import_body.py     bodies of imports: the file alone, or in JSON
    system.py          liveness, readiness, metrics
    dependencies.py    what routes depend on: the service, the caller with a scope, responses
    queries.py         query parameters: pages and filters
    preconditions.py   ETag, If-Match, merge patches
    errors.py          what an exception becomes: status and problem body; problems.py: each code with its sentence
    field_errors.py    validation errors field by field; known_fields.py: which fields an operation has
    middleware.py      request id, access log, body limit, headers; caller_limits.py: what one caller may have open
    openapi.py         the OpenAPI document
    schemas/           the bodies
"""
