"""The way out of the process: every outgoing connection is opened here, to an address that was checked (SSRF).

address_guard.py  which addresses may be reached (SSRF), and the dialer: resolve, check, connect
public_names.py   which names a proxy may resolve
stream.py         sockets, plain and TLS: read and written without copies, buffers, deadlines
handshake.py      TLS handshakes
http_headers.py   the user agent that is sent, and `Retry-After` as it is read
"""
