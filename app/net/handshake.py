"""TLS handshakes on non-blocking sockets."""

from __future__ import annotations

import asyncio
import ssl
from datetime import datetime

from cryptography import x509


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


def certificate_end(tls: ssl.SSLSocket) -> datetime | None:
    """Return until when the certificate is valid that was shown in the handshake; None for one that can't be read."""
    shown = tls.getpeercert(binary_form=True)
    try:
        return x509.load_der_x509_certificate(shown).not_valid_after_utc if shown else None
    except ValueError:
        return None  # it was not checked, or OpenSSL is more lenient


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
