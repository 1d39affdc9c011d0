"""The mail room: push events of registries come in here, notifications go out.

`inbound` proves who sent a delivery and hands it to the dialect its hook is set to; a dialect turns the bytes into
`Delivery` values. Nothing here asks a registry anything, and no address that stands in a payload is ever visited.
`messages` writes and signs what is told of jobs, `outbound` sends it to an address that somebody subscribed.
May import `domain`, `security` and `dialing`; `registry` and `store` are pipes beside it and unknown to it.
"""
