"""TLS contexts: the system's authorities and an operator's own, a client certificate, or no check at all."""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from app.dialing import make_tls_context, shared_tls_context
from app.domain.registry import RegistryEntry, TlsSettings
from app.registry.failures import Asked, clean, make_failure
from app.registry.trust import Standing


def make_context(entry: RegistryEntry, standing: Standing) -> ssl.SSLContext:
    """Make the context for hosts of one standing; raise `RegistryError` (`tls_error`) for PEM texts that are none.

    An own authority counts for every host of the entry: it can only add. The check is left out for the registry and
    the hosts its operator trusts, never for strangers; the client certificate is shown to the registry alone.
    """
    tls = entry.tls
    if tls == TlsSettings():
        return shared_tls_context()
    try:
        context = make_tls_context()
        if tls.ca:
            context.load_verify_locations(cadata=tls.ca)
        if not tls.verify and standing is not Standing.STRANGER:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if tls.client_certificate and standing is Standing.HOME:
            _load_client_certificate(context, tls)
    except (ssl.SSLError, ValueError) as error:
        asked = Asked(entry.registry, "connect")
        message = f"the TLS settings of {entry.name} can't be used: {clean(str(error))}"
        raise make_failure(message, asked, code="tls_error") from error
    return context


def _load_client_certificate(context: ssl.SSLContext, tls: TlsSettings) -> None:
    key = tls.client_key.get_secret_value() if tls.client_key else ""
    with _readable(f"{tls.client_certificate}\n{key}") as path:
        # Without the function an encrypted key would ask for its password on the terminal.
        context.load_cert_chain(path, password=lambda: "")


@contextmanager
def _readable(text: str) -> Iterator[str]:
    """Give a text a path, which is all the ssl module takes: in memory on Linux, else a private file for a moment."""
    if hasattr(os, "memfd_create"):
        with os.fdopen(os.memfd_create("certificate"), "w") as file:
            file.write(text)
            file.flush()
            yield f"/proc/self/fd/{file.fileno()}"
        return
    with tempfile.NamedTemporaryFile("w", prefix="registry-sync-", suffix=".pem") as file:
        file.write(text)
        file.flush()
        yield file.name
