"""HTTP for programs: requests in, JSON out, no decisions.

A route reads the request, calls one service, and renders what comes back. Who may call is said on each route by a scope
(`deps`); what an exception becomes is said once (`errors`). Imports everything below it; nothing but `app.main` imports
this package.
"""
