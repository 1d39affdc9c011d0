"""Every limit of the road, with its reason: how long it waits, how much it reads, how often it tries again."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1024 * 1024

MAX_REDIRECTS = 5
MAX_AUTH_ROUNDS = 2
"""The request as it is, and once more with what a 401 taught."""
MAX_ERROR_BYTES = 64 * 1024
MAX_TOKEN_ANSWER_BYTES = MIB
MAX_TOKEN_LENGTH = 16 * 1024
"""Longer ones would not pass the header limits of common servers."""
MAX_PAGE_BYTES = 32 * MIB
"""GAR lists every tag, with its manifest, on one page."""
MAX_PAGES = 1_000
MAX_ITEMS = 200_000
MAX_HELD_TOKENS = 4_096
MAX_IDLE_REGISTRIES = 256
"""Registries whose connections and tokens are kept while nobody uses them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoadSettings:
    """What may be set about talking to registries; the defaults suit the internet."""

    user_agent: str = "registry-sync"
    connect_seconds: float = 10.0
    """Resolve, connect and shake hands, all addresses of a name together."""
    answer_seconds: float = 60.0
    """From the end of a request to the head of its answer."""
    commit_seconds: float = 600.0
    """The same for the end of an upload: the registry may have to move the whole blob before it answers."""
    idle_seconds: float = 60.0
    """Between two pieces of a body, either way."""
    trickle_seconds: float = 120.0
    trickle_bytes_per_second: int = 10 * 1024
    """A blob that comes more slowly than this, over that much waiting, is broken off and asked for again."""
    attempts: int = 5
    """Tries of a request that may be repeated, when what went wrong is temporary."""
    retry_first_seconds: float = 0.5
    retry_max_seconds: float = 20.0
    rate_limit_attempts: int = 10
    """Tries of a request that the registry put off; the pauses it asked for are kept in between."""
    pause_max_seconds: float = 900.0
    """The longest pause a registry is granted; one that asks for more fails the request instead."""
    slot_patience_seconds: float = 5.0
    """A pause longer than this gives a transfer's slots back instead of holding the other registry's too."""
    cancel_seconds: float = 5.0
    """For ending an upload session that is not wanted any more."""
    settle_seconds: float = 1.0
    """How long an upload that is taken up must not grow: what was on its way for the process before still arrives."""
    chunk_bytes: int = 32 * MIB
    """One PATCH of a chunked upload; below what proxies commonly let through (Cloudflare: 100 MB)."""
