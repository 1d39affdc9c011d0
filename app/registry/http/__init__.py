"""HTTP to registries: connections, TLS, URLs, which host may see credentials, and what an error means.

client.py        one request and one answer
connections.py   HTTP/1.1 connections, idle ones kept; proxy.py: through a proxy
message.py       URLs and heads; chunked.py: bodies in chunks
tls.py           TLS contexts
host_trust.py    which host may see credentials (SSRF)
errors.py        from an answer to an error, and whether a retry may help; error_body.py: what a body says
"""
