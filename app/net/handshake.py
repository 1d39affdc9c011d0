"""TLS handshakes on non-blocking sockets."""

from __future__ import annotations

import asyncio
import ssl


async def shake_hands(tls: ssl.SSLSocket) -> None:
    """Shake hands as the client; raise `ssl.SSLError`, or `OSError` for a connection that broke."""
    loop, number = asyncio.get_running_loop(), tls.fileno()
    while True:
        ready = loop.create_future()
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            loop.add_reader(number, _settle, ready)
            try:
                await ready
            finally:
                loop.remove_reader(number)
        except ssl.SSLWantWriteError:
            loop.add_writer(number, _settle, ready)
            try:
                await ready
            finally:
                loop.remove_writer(number)
        else:
            return


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
