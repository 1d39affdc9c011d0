"""The way out of the process: every outgoing connection is opened here, to an address that was checked (SSRF).

    dialer.py         resolve, check, connect
    stream.py         sockets, plain and TLS: read and written without copies, deadlines
    buffers.py        what is read into, filled anew only when no view of it is left
    handshake.py      TLS handshakes
    address_guard.py  which addresses may be reached (SSRF)

Stands below `registry` and `webhooks`. Imports `domain` only.
"""
