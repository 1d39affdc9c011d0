"""TLS contexts: the system's authorities and an operator's own, a client certificate, or no check at all."""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from app.domain.registry import RegistryEntry, TlsSettings
from app.net.address_guard import make_tls_context, shared_tls_context
from app.registry.http.error_body import clean
from app.registry.http.errors import ErrorContext, make_error
from app.registry.http.host_trust import HostTrust


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a context is made of."""

    authorities: str | None
    is_checked: bool
    certificate: str | None
    key: str | None = field(repr=False)


_contexts: WeakValueDictionary[_Wanted, ssl.SSLContext] = WeakValueDictionary()
"""Contexts in use: one holds all authorities, about 2 MB, so entries with the same settings share it."""


def make_context(entry: RegistryEntry, trust: HostTrust) -> ssl.SSLContext:
    """Return the TLS context for hosts of one trust, never to be changed; raise `RegistryError` (`tls_error`).

    An own authority counts for every host of the entry: it can only add. The check is left out for the registry and
    the hosts its operator trusts, never for strangers; the client certificate is shown to the registry alone.
    """
    tls = entry.tls
    if tls == TlsSettings():
        return shared_tls_context()
    is_checked = tls.verify or trust is HostTrust.STRANGER
    shows_certificate = tls.client_certificate is not None and trust is HostTrust.HOME
    key = tls.client_key.get_secret_value() if tls.client_key is not None and shows_certificate else None
    wanted = _Wanted(tls.ca, is_checked, tls.client_certificate if shows_certificate else None, key)
    context = _contexts.get(wanted)
    if context is None:
        try:
            context = _contexts[wanted] = _make(wanted)
        except (ssl.SSLError, ValueError) as error:
            asked = ErrorContext(entry.registry, "connect")
            message = f"the TLS settings of {entry.name} can't be used: {clean(str(error))}"
            raise make_error(message, asked, code="tls_error") from error
    return context


def _make(wanted: _Wanted) -> ssl.SSLContext:
    if wanted.is_checked:
        context = make_tls_context()
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # without authorities: nothing is checked against them
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if wanted.authorities:
        context.load_verify_locations(cadata=wanted.authorities)
        # The registry's own certificate may be entered in place of an authority, as curl and Go take it.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if wanted.certificate:
        with _readable(f"{wanted.certificate}\n{wanted.key or ''}") as path:
            # Without the function an encrypted key would ask for its password on the terminal.
            context.load_cert_chain(path, password=lambda: "")
    return context


@contextmanager
def _readable(text: str) -> Iterator[str]:
    """Yield a path for a text, which is all the ssl module takes: in memory on Linux, else a private file."""
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
