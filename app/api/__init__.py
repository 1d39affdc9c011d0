"""HTTP for programs: requests in, JSON out, no decisions.

A route reads the request, calls one service, and renders what comes back. Who may call is said on each route by a scope
(`dependencies`); what an exception becomes is said once (`errors`). `schemas/` has the bodies.
"""
