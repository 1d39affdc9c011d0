"""Every parser of foreign text, given what is almost right: it returns something or refuses in its own words.

Texts are strung together from the words of each parser's grammar, with odd characters and long numbers between them.
"""

import asyncio
import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

import httpcore
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from app.api.queries import Moment
from app.clock import now, parse_time
from app.domain.duration import parse_duration
from app.domain.errors import ContentError, InvalidRequestError, RegistryError
from app.domain.manifest import digest_of, parse_manifest
from app.domain.matcher import parse_matcher
from app.domain.page import PageRequest, cursor_after
from app.domain.pattern import DestinationTemplate, SourcePattern
from app.domain.reference import Digest, InvalidReferenceError, Reference, Registry
from app.domain.registry import DockerConfigAuth, RegistryEntry
from app.domain.registry_logins import LoginRules
from app.domain.request import SyncRequest
from app.domain.version import parse_version
from app.importers.dregsy import read_dregsy
from app.importers.image_list import read_image_list
from app.importers.regsync import read_regsync
from app.net.http_headers import retry_after_seconds
from app.registry.auth.challenge import Challenge, parse_challenges
from app.registry.auth.docker_config import DockerConfigIdentity
from app.registry.auth.token_server import read_token
from app.registry.blobs import _whole_size, stored_bytes
from app.registry.http.error_body import read_error_body
from app.registry.http.errors import ErrorContext, Response
from app.registry.http.host_trust import HostTrust
from app.registry.http.message import Headers, InvalidUrlError, Url, find_head, parse_head, whole_number
from app.registry.listing.pages import next_page
from app.registry.ratelimit.quota_headers import _read as read_quota

T = TypeVar("T")
MOST_SECONDS = 1e13
NUMBERS = ("0", "1", "-1", "²", "٣", "1e400", "0x10", "1.5", "9" * 19, "9" * 5_000, "1_0", "NaN")
ODD = (
    "",
    " ",
    "\t",
    "\0",
    "\r\n",
    "\x7f",
    "é",
    "\U0001d7d9",
    "\u2028",
    "%00",
    '"',
    "\\",
    "'",
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
)
DEEP = b"[" * 50_000
quick = settings(max_examples=60)


def near(*words: str) -> st.SearchStrategy[str]:
    """Make texts out of a grammar's words, numbers, odd characters, and a few of anything."""
    known = st.sampled_from((*words, *words, *NUMBERS, *ODD))
    return st.lists(st.one_of(known, known, known, st.text(max_size=4)), max_size=12).map("".join)


def header(name: str, *words: str) -> st.SearchStrategy[Response]:
    return st.lists(near(*words), min_size=1, max_size=3).map(lambda values: answer(name, *values))


def answer(name: str, *values: str) -> Response:
    headers = Headers()
    for value in values:
        headers.add(name, value)
    return Response(200, headers, b"", Url.parse("https://r.example.com/v2/a/tags/list"), HostTrust.HOME)


documents = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), near("sha256:", "a" * 64, "application/", "json")),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(near("mediaType", "size"), inner, max_size=3)),
    max_leaves=8,
)


def document(*names: str) -> st.SearchStrategy[dict[str, Any]]:
    """Make objects with fields that are known, of every type."""
    return st.dictionaries(st.sampled_from(names), documents, max_size=6)


def raw(found: object) -> bytes:
    return json.dumps(found).encode()


def encoded(body: bytes) -> str:
    return base64.urlsafe_b64encode(body).decode()


def attempt(parse: Callable[..., T], *given: Any, refusal: type[Exception], code: str | None = None) -> T | None:
    """Parse something; return None where it is refused as it should be: in words, and by its code."""
    try:
        return parse(*given)
    except refusal as error:
        if not str(error) or (code is not None and getattr(error, "code", None) != code):
            raise
        return None


@quick
@given(header("link", "<", ">", ";", "rel=", '"', "next", ",", "/v2/", "?n=1&last=a", "//h", "https://h/", "..", "#"))
def test_link(found: Response) -> None:
    following = next_page(found, found.url)
    assert following is None or (following.origin, following.path) == (found.url.origin, found.url.path)


@quick
@given(
    st.dictionaries(
        st.sampled_from(
            [f"{prefix}{name}" for prefix in ("ratelimit-", "x-ratelimit-") for name in ("remaining", "limit", "reset")]
            + ["ratelimit"]
        ),
        near(";", "w=", "r=", "t=", ",", "q=", '"default"', "100", "21600"),
    )
)
def test_rate_limit(headers: dict[str, str]) -> None:
    if (quota := read_quota(headers)) is not None:
        assert quota[0] >= 0
        assert 0 <= quota[2] < float("inf")


@quick
@given(near("Wed", ", ", "21", " Oct ", "2015", " 07:28:00", " GMT", "+9999", "-", ":", "."))
@example("Fri, 31 Dec 9999 23:59:59 -2359")
@example("Mon, 01 Jan 0001 00:00:00 +2359")
def test_retry_after(text: str) -> None:
    seconds = retry_after_seconds(text, now=datetime(2026, 1, 1, tzinfo=UTC))
    assert seconds is None or 0 <= seconds < MOST_SECONDS
    number = whole_number(text)
    assert number is None or 0 <= number < 10**18


@quick
@given(st.lists(near("Bearer ", "Basic ", "realm=", '"', "https://a/", ",", "service=", "scope=", "\\"), max_size=3))
def test_www_authenticate(headers: list[str]) -> None:
    assert all(isinstance(challenge, Challenge) for challenge in parse_challenges(headers))


@quick
@given(header("range", "bytes=", "0-", "-", "/", "*"), header("content-range", "bytes ", "0-0/", "*", "/", "-"))
def test_ranges(upload: Response, blob: Response) -> None:
    for size in (stored_bytes(upload), _whole_size(blob)):
        assert size is None or 0 <= size <= 10**18


REFERENCE = ("docker.io", "localhost", ":", "5000", "/", "library", "a", "A", "..", ".", "_", "-", "@sha256:", "a" * 64)


@quick
@given(near(*REFERENCE, "*", "**", "//", "xn--", "[::1]", "{name}", "{tag}", "{repository}"))
def test_image_references(text: str) -> None:
    for parse in (Reference.parse, SourcePattern.parse, DestinationTemplate.parse, Digest, Registry):
        found = attempt(parse, text, refusal=InvalidReferenceError)
        assert not isinstance(found, Reference) or Reference.parse(str(found)) == found
    request = {"rules": [{"source": text, "destination": text}]}
    attempt(SyncRequest.model_validate, request, refusal=ValidationError)


@quick
@given(
    document("schemaVersion", "mediaType", "manifests", "layers", "config", "subject", "annotations", "blobs").map(raw)
    | st.binary(max_size=64)
)
@example(DEEP)
@example(b'{"a": 1, "a": 2}')
@example(b"\xff\xfe")
def test_manifests(body: bytes) -> None:
    attempt(partial(parse_manifest, media_type=None, digest=digest_of(body)), body, refusal=ContentError)


@quick
@given(near("2026", "-11", "-25", "T", "08:30:00", "Z", "+00:00", "+23:59", "W01", "30", "d", "h", "s", "0001-01-01"))
@example("9999-12-31T23:59:59-23:59")
def test_times_and_durations(text: str) -> None:
    found = parse_time(text)
    assert found is None or found.tzinfo is UTC
    moment = attempt(TypeAdapter(Moment).validate_python, text, refusal=ValidationError)
    assert moment is None or moment.tzinfo is UTC
    seconds = attempt(parse_duration, text, refusal=ValueError)
    assert seconds is None or seconds >= 0


@quick
@given(near("ab", "=", "_", "-") | st.binary(max_size=48).map(encoded) | documents.map(raw).map(encoded))
@example(base64.urlsafe_b64encode(DEEP).decode())
@example(cursor_after((10**30,), bound_to="list"))
def test_cursors(text: str) -> None:
    key = attempt(PageRequest(cursor=text).after, "list", refusal=InvalidRequestError, code="invalid_cursor")
    assert key is None or all(isinstance(part, str) or abs(part) < 2**63 for part in key)


@quick
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "auths": st.one_of(
                documents,
                st.dictionaries(
                    near("https://", "r.example.com", "/v1/", "/"),
                    document("auth", "username", "password", "identitytoken", "registrytoken"),
                    max_size=3,
                ),
            ),
            "credHelpers": documents,
            "credsStore": documents,
        },
    ).map(raw)
    | st.binary(max_size=32)
)
@example(DEEP)
@example(b'{"auths": {"r.example.com": {"auth": "/w=="}}}')
def test_docker_config(tmp_path_factory: pytest.TempPathFactory, body: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "config.json"
    file.write_bytes(body)
    auth = DockerConfigAuth(path=str(file))
    entry = RegistryEntry(name="r", host="r.example.com", auth=auth)
    identity = DockerConfigIdentity(entry, auth, LoginRules(docker_config_folders=(str(file.parent),)), clock=now)
    attempt(lambda: asyncio.run(identity.fetch()), refusal=RegistryError, code="unauthorized")


@quick
@given(
    st.lists(
        near("HTTP/1.1 ", "200", " OK", "\r\n", ":", "Content-Length", "Connection", "close", "X"), max_size=4
    ).map(lambda lines: "\r\n".join(lines).encode("utf-8", "replace"))
)
def test_heads_of_answers(body: bytes) -> None:
    attempt(find_head, body, refusal=httpcore.RemoteProtocolError)
    head = attempt(parse_head, body, refusal=httpcore.RemoteProtocolError)
    assert head is None or 100 <= head.status <= 999


@quick
@given(near("https://", "http:", "//", "h.example.com", ":", "443", "/", "?", "#", "@", "..", "[::1]", "a=b", "xn--"))
def test_urls(text: str) -> None:
    base = Url.parse("https://r.example.com/v2/")
    for read in (Url.parse, base.join):
        found = attempt(read, text, refusal=InvalidUrlError)
        assert found is None or (found.whole.isascii() and "\n" not in found.whole)


@quick
@given(document("token", "access_token", "expires_in", "errors", "code", "message", "detail").map(raw) | st.binary())
@example(DEEP)
@example(b'{"token": "a", "expires_in": ' + b"9" * 400 + b"}")
def test_answers_of_token_servers_and_errors(body: bytes) -> None:
    context = ErrorContext("r.example.com", "log_in")
    token = attempt(read_token, body, context, refusal=RegistryError, code="unauthorized")
    assert token is None or 0 < token.seconds < float("inf")
    for kind in ("application/json", "text/html"):
        headers = Headers()
        headers.add("content-type", kind)
        read_error_body(headers, body)


@quick
@given(
    near("semver:", "v", "1", ".", "2", "-rc", "+b", ">=", "^", "~", "*", "x", "||", " - ", "/", "(", "|", "\\pL", "!")
)
def test_matchers_and_versions(text: str) -> None:
    parse_version(text)
    matches = attempt(parse_matcher, text, refusal=ValueError)
    assert matches is None or matches("1.2.3") in {True, False}


READERS: tuple[Callable[[str], object], ...] = (
    read_dregsy,
    read_regsync,
    lambda text: read_image_list(text, destination="r.example.com"),
)


@quick
@given(near("tasks:", "sync:", "version: 1\n", "- ", "source: ", "target: ", "&a ", "*a", "\n", "  ", "!!python", ": "))
@example("a: &a [*a]")
@example("[" * 5_000)
def test_files_of_other_tools(text: str) -> None:
    for read in READERS:
        attempt(read, text, refusal=InvalidRequestError)


def test_now_is_a_time_that_all_of_these_can_read() -> None:
    assert parse_time(now().isoformat()) is not None
