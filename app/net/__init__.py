"""The way out of the process: every outgoing connection is opened here, to an address that was checked (SSRF).

    address_guard.py  which addresses may be reached (SSRF), and the dialer: resolve, check, connect
    stream.py         sockets, plain and TLS: read and written without copies, buffers, deadlines
    handshake.py      TLS handshakes

Stands below `registry` and `webhooks`. Imports `domain` only.
"""
