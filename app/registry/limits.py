"""Every limit of the registry client, with its reason: timeouts (seconds), sizes (bytes), attempts."""

from __future__ import annotations

from dataclasses import dataclass

from app.domain.registry_logins import NOTHING, LoginRules
from app.domain.retry_policy import RetryPolicy
from app.net.http_headers import USER_AGENT

MIB = 1024 * 1024

MAX_REDIRECTS = 5
MAX_AUTH_ROUNDS = 2
"""The request as it is, and once more with what a 401 taught."""
MAX_ERROR_BYTES = 64 * 1024
MAX_TOKEN_ANSWER_BYTES = MIB
MAX_TOKEN_LENGTH = 16 * 1024
"""Longer ones would not pass the header limits of common servers."""
MAX_PAGE_BYTES = 4 * MIB
"""A page of 1,000 entries has less than 4 KiB for each; one without an end (Distribution 2 lists all tags at once) has
room for 30,000 tags of the longest kind, and some 200,000 of a usual one."""
MAX_WHOLE_LIST_BYTES = 32 * MIB
"""Google lists every tag, with its manifest, on one page."""
MAX_PAGES = 1_000
MAX_ITEMS = 200_000
MAX_REFERRERS_PAGES = 100
"""Of one manifest's; an image with more than 2,000 referrers in all is refused (`app/sync/referrers.py`)."""
MAX_LIST_BYTES = 256 * MIB
"""All pages of one list together: 200,000 entries of more than 1 KiB."""
MAX_LIST_SECONDS = 1_800.0
"""The same, by time: more than a second for each page that a list may have."""
MAX_JSON_VALUES = 3_000_000
"""In one page: 200,000 tags with what Google says of each. A few bytes a value, read, are hundreds of megabytes."""
MAX_CACHED_TOKENS = 4_096
MAX_IDLE_REGISTRIES = 256
"""Registries whose connections and tokens stay in memory while no job uses them."""
REQUEST_RETRIES = RetryPolicy(attempts=5, first_delay=0.5, max_delay=20.0, jitter=0.5, max_pause=30.0)
"""Of a request that may be repeated, when what went wrong is temporary. A pause that is longer than the longest fails
the request, and the error says how long it is: what the request was for gives its place back, and comes again then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSettings:
    """What may be set about talking to registries; the defaults suit the internet."""

    user_agent: str = USER_AGENT
    connect_seconds: float = 10.0
    """Resolve, connect and shake hands, all addresses of a name together."""
    answer_seconds: float = 60.0
    """From the end of a request to the head of its answer."""
    commit_seconds: float = 600.0
    """The same for the end of an upload: the registry may have to move the whole blob before it answers."""
    idle_seconds: float = 60.0
    """Between two pieces of a body, either way."""
    body_seconds: float = 300.0
    """The whole of a body that is read at once: a manifest, a page, a token, an error."""
    page_trickle_seconds: float = 30.0
    trickle_seconds: float = 120.0
    trickle_bytes_per_second: int = 10 * 1024
    """What moves more slowly than this is broken off (slowloris): a body that is read at once over 30 seconds of
    waiting, a blob, either way, over 120."""
    retry_policy: RetryPolicy = REQUEST_RETRIES
    rate_limit_attempts: int = 10
    """Tries of a request that the registry put off; the pauses it asked for are kept in between."""
    permit_pause_max_seconds: float = 5.0
    """A pause longer than this gives a transfer's slots back instead of holding the other registry's too."""
    cancel_seconds: float = 5.0
    """For ending an upload session that is not wanted any more."""
    opening_seconds: float = 2.0
    """What a task that is cancelled takes to end a session that the registry is just opening."""
    settle_seconds: float = 1.0
    """How long an upload that is taken up must not grow: what was on its way for the process before still arrives."""
    logins: LoginRules = NOTHING
    """What of this machine may be used to log in."""
    chunk_bytes: int = 32 * MIB
    """One PATCH of a chunked upload; below what proxies commonly let through (Cloudflare: 100 MB)."""
    resumable_above_bytes: int = 64 * MIB
    """What is larger goes in chunks where finished chunks are all that stays of an upload that broke off."""
    resumable_chunk_bytes: int = 8 * MIB
    """One of these. It is read before it is sent and the next one meanwhile, so twice this is held in memory; object
    storage takes no less than 5 MiB at a time."""
