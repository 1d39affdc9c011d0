"""Where notifications go: an address of the web or of e-mail, and the one that a job brings along.

What follows the host may be all that is needed to write there, so addresses are stored sealed, with what may be shown
of them beside it.
"""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import SplitResult, quote, unquote, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from app.domain.reference import is_host_name

MAX_URL_LENGTH = 2_048
HIDDEN_PART = "***"
_SEALED_HOST = "sealed.invalid"
_SEALED = f"https://{_SEALED_HOST}/"
"""How a sealed address begins where addresses are stored: a name that no resolver knows (RFC 6761), so that a release
which does not know of sealing sends to no other place."""
_WORDS = re.compile(r"(?=.{1,24}$)(v\d+|[a-z]+([._-][a-z]+)*)")
"""Parts of a path that are words, and no keys."""
MAX_EMAIL_LENGTH = 254
"""RFC 5321, section 4.5.3.1.3, without the angle brackets."""
MAX_LOCAL_PART = 64
_LOCAL_PART = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
"""RFC 5322, section 3.2.3, `dot-atom-text`: nothing that ends a header, a command or an address can be in it."""


def _address(text: str) -> str:
    try:
        url = urlsplit(text)
        is_whole = url.scheme in {"http", "https"} and _is_host(url.hostname or "") and url.port != 0
    except ValueError:
        url, is_whole = SplitResult("", "", "", "", ""), False
    if not is_whole or not text.isascii() or any(not "!" <= char <= "~" or char == "\\" for char in text):
        raise PydanticCustomError("invalid_url", "an address is https://host[:port]/path, in visible ASCII")
    if url.hostname == _SEALED_HOST:
        raise PydanticCustomError("invalid_url", "an address is sent as it is, not as it is stored")
    if "@" in url.netloc:
        raise PydanticCustomError("secret_in_url", "an address holds no user and no password")
    if url.fragment:
        raise PydanticCustomError("invalid_url", "an address has no fragment: it would not be sent")
    return text


def _is_host(host: str) -> bool:
    """Return whether a host can be resolved; names of services in compose have underscores, names in DNS an end dot."""
    return ":" in host or is_host_name(host.removesuffix(".").replace("_", "-"))


def is_email_address(text: str) -> bool:
    """Return whether a text is one plain address, `name@host`: in ASCII, without quotes, comments or a shown name."""
    local, at, host = text.rpartition("@")
    if not at or len(text) > MAX_EMAIL_LENGTH or len(local) > MAX_LOCAL_PART:
        return False
    return _LOCAL_PART.fullmatch(local) is not None and host.isascii() and is_host_name(host.lower())


def _email(text: str) -> str:
    if not is_email_address(text):
        raise PydanticCustomError("invalid_email", "an address is name@host, in plain ASCII, one in each item")
    return text


SubscriptionName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$")]
NotifyUrl = Annotated[str, Field(max_length=MAX_URL_LENGTH), AfterValidator(_address)]
EmailAddress = Annotated[str, Field(max_length=MAX_EMAIL_LENGTH), AfterValidator(_email)]


class Notify(BaseModel):
    """Where one job's end is reported, signed and formatted as the named subscription says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: NotifyUrl
    """Of a job that is stored, sealed."""
    subscription: SubscriptionName

    @property
    def origin(self) -> str:
        """The address as far as readers of jobs may see it: what follows may be all that is needed to write there."""
        parts = urlsplit(shown_url(self.url))
        return f"{parts.scheme}://{parts.netloc}"


def with_sealed(url: str, token: str) -> str:
    """Return what is stored in the place of an address: the sealed one, and what may be shown of it."""
    return f"{_SEALED}{token}?shown={quote(masked_url(url), safe='')}"


def sealed_token(url: str) -> str | None:
    """Return the token of a stored address; None for one of a release that sealed none."""
    return urlsplit(url).path[1:] if url.startswith(_SEALED) else None


def shown_url(url: str) -> str:
    """Return what may be shown of a stored address."""
    return unquote(url.partition("?shown=")[2]) if url.startswith(_SEALED) else masked_url(url)


def masked_url(url: str) -> str:
    """Return an address with `***` for each part of its path that is more than a word, and for its query."""
    parts = urlsplit(url)
    path = "/".join(part if not part or _WORDS.fullmatch(part) else HIDDEN_PART for part in parts.path.split("/"))
    return f"{parts.scheme}://{parts.netloc}{path}{f'?{HIDDEN_PART}' if parts.query else ''}"


def is_masked(url: str) -> bool:
    """Whether an address is one as it was shown, with parts hidden."""
    parts = urlsplit(url)
    return HIDDEN_PART in parts.path.split("/") or parts.query == HIDDEN_PART
