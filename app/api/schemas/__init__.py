"""Request and response bodies, with the examples that the OpenAPI document shows.

What comes in is checked by the domain's own models; what goes out is a model of its own, so that nothing leaves by
accident: a field that is not named here is not sent.
"""
