"""Request and response bodies, with the examples that the OpenAPI document shows.

What comes in is checked by the domain's own models; what goes out is a model of its own, so that nothing leaves by
accident: a field that is not named here is not sent.

    jobs.py, plan.py, policies.py, subscriptions.py, keys.py, audit.py, imports.py   the bodies of one noun each
    registries.py        registry entries; registry_auth.py: how they log in, shown_auth.py: that as it is shown
    registry_states.py   how the workers stand with a registry
    hooks.py, events.py  push events that came in, and events of one job
    explanation.py       why a tag is taken or dropped
    pages.py             one page of a list
    problems.py          the body of every answer that is not a success
    round_trip.py        documents that come back as they were shown: GET, change a field, PUT
    examples.py          what the OpenAPI document shows
"""
