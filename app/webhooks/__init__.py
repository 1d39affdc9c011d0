"""Webhooks: push events of registries come in, notifications go out.

`inbound` verifies who sent a delivery and hands it to the dialect its hook is set to; a dialect turns the bytes into
`Delivery` values. No registry is asked here, and no address in a payload is ever visited. `messages` writes
notifications of jobs, `outbound` signs them and sends them to a subscription's address. May import `domain`, `security`
and `net`; `registry` and `store` are beside it and unknown to it.
"""
