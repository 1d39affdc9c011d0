"""Dialects: one small parser for each sender of push events; none imports another.

Each module has `parse(body, headers) -> Delivery`. Header names are lower case. A parser is lenient about what it does
not need (senders add fields whenever they like) and strict about what it takes over. It raises `HookError` only where a
body as a whole is not what its sender documents: a single odd event is reported as ignored, because many senders
repeat a refused delivery for ever and send nothing else until it is taken.
"""
