"""URLs, heads and chunks, byte for byte: what is taken, and what is refused rather than guessed."""

import httpcore
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.registry.http.chunked import ChunkBudgetError, ChunkedDecoder
from app.registry.http.message import (
    MAX_HEAD_BYTES,
    HttpRequest,
    InvalidUrlError,
    Url,
    find_head,
    parse_head,
    whole_number,
    write_head,
)

URL = Url("https", "registry.example.com", 443, "/v2/")
BASE = Url.parse("https://registry.example.com/v2/team/app/blobs/uploads/")


def head(*lines: str) -> bytes:
    return "\r\n".join(["HTTP/1.1 200 OK", *lines, "", ""]).encode("latin-1")


def chunked(data: bytes, *, size: int) -> bytes:
    parts = [data[begin : begin + size] for begin in range(0, len(data), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def test_a_head_is_read_once_for_all() -> None:
    parsed = parse_head(head("Content-Length: 5", "WWW-Authenticate: Basic", "www-authenticate:Bearer realm=x", "X: "))
    assert (parsed.status, parsed.stays) == (200, True)
    assert parsed.headers.get("content-length") == "5"
    assert parsed.headers.get("www-authenticate") == "Basic, Bearer realm=x"
    assert parsed.headers.get_list("www-authenticate") == ["Basic", "Bearer realm=x"]
    assert parsed.headers.get_list("x") == [""]
    assert parsed.headers.get_list("absent") == []
    assert (parsed.body_length("GET"), parsed.body_length("HEAD")) == (5, 0)


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
        b"HTTP/1.1 200\tOK\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
        head("no colon"),
        head(": no name"),
        head("Two Words: x"),
        head("Folded: a", " b"),
        head("Name : x"),
        head("X: a\rb"),
        head("X: a\0b"),
    ],
)
def test_what_is_not_plainly_a_head_is_refused(raw: bytes) -> None:
    with pytest.raises(httpcore.RemoteProtocolError):
        parse_head(raw)


@pytest.mark.parametrize("lengths", [["-1"], ["5", "6"], ["5, 6"], ["0x5"], ["²"], [""], ["9" * 400]])
def test_a_length_that_is_none_is_refused(lengths: list[str]) -> None:
    parsed = parse_head(head(*(f"Content-Length: {length}" for length in lengths)))
    with pytest.raises(httpcore.RemoteProtocolError):
        parsed.body_length("GET")


def test_the_same_length_said_twice_is_one() -> None:
    assert parse_head(head("Content-Length: 5", "Content-Length: 5")).body_length("GET") == 5


def test_other_transfer_encodings_are_refused() -> None:
    with pytest.raises(httpcore.RemoteProtocolError):
        _ = parse_head(head("Transfer-Encoding: gzip, chunked")).is_chunked


@pytest.mark.parametrize("end", [b"\r\n\r\n", b"\n\n", b"\r\n\n"])
def test_a_head_ends_with_an_empty_line_wherever_it_is_cut(end: bytes) -> None:
    raw = b"HTTP/1.1 200 OK\r\nX: y" + end
    for cut in range(len(raw)):
        assert find_head(raw[:cut]) == 0
    assert find_head(raw + b"body", len(raw) - 1) == len(raw)


def test_a_head_has_a_largest_size() -> None:
    with pytest.raises(httpcore.RemoteProtocolError):
        find_head(b"HTTP/1.1 200 OK\r\nX: " + b"x" * MAX_HEAD_BYTES)


def test_a_request_says_how_long_its_body_is() -> None:
    put = HttpRequest(method="PUT", url=URL, headers={"X": "y"}, content=b"abc")
    assert write_head(put, user_agent="test", target="/v2/") == (
        b"PUT /v2/ HTTP/1.1\r\nHost: registry.example.com\r\nUser-Agent: test\r\nAccept-Encoding: identity\r\n"
        b"X: y\r\nContent-Length: 3\r\n\r\n"
    )
    assert b"Content-Length: 0\r\n" in write_head(HttpRequest(method="POST", url=URL), user_agent="test", target="/")
    assert b"Content-Length" not in write_head(HttpRequest(method="GET", url=URL), user_agent="test", target="/")


@pytest.mark.parametrize("value", ["a\r\nb", "a\nb", "a\rb", "a\0b", "a\u20ac"])
def test_a_header_that_no_head_can_hold_is_not_sent(value: str) -> None:
    with pytest.raises(httpcore.LocalProtocolError):
        write_head(HttpRequest(method="GET", url=URL, headers={"X": value}), user_agent="test", target="/")


@given(st.binary(min_size=1, max_size=300), st.integers(1, 40), st.lists(st.integers(1, 50), min_size=1), st.binary())
def test_chunks_are_joined_wherever_they_are_cut(data: bytes, size: int, cuts: list[int], behind: bytes) -> None:
    raw = chunked(data, size=size) + behind
    decoder, found, position, turn = ChunkedDecoder(), b"", 0, 0
    while not decoder.is_complete:
        step = cuts[turn % len(cuts)]
        found += bytes(decoder.decode(raw[position : position + step]))
        position, turn = position + step, turn + 1
    assert found == data
    assert decoder.rest + raw[position:] == behind


def test_extensions_and_trailers_are_passed_over() -> None:
    decoder = ChunkedDecoder()
    assert bytes(decoder.decode(b"3;name=value\r\nabc\r\n0\r\nX: y\r\n\r\nrest")) == b"abc"
    assert (decoder.is_complete, decoder.rest) == (True, b"rest")


@pytest.mark.parametrize(
    "raw",
    [
        b"x\r\n",
        b"\r\n",
        b"-3\r\nabc",
        b"3\r\nabcd\r\n",
        b"3" * 5000,
        b"0\r\n" + b"X: y\r\n" * 5000,
        b"f" * 16 + b"\r\n",
    ],
)
def test_what_is_not_plainly_a_chunk_is_refused(raw: bytes) -> None:
    with pytest.raises(httpcore.RemoteProtocolError):
        ChunkedDecoder().decode(raw)


@pytest.mark.parametrize("size", [1, 2, 16])
def test_tiny_chunks_have_a_budget(size: int) -> None:
    with pytest.raises(ChunkBudgetError):
        ChunkedDecoder().decode(chunked(bytes(256 * 1024), size=size))


@pytest.mark.parametrize("size", [100, 512, 4096])
def test_chunks_of_a_common_size_go_on_for_ever(size: int) -> None:
    raw, decoder = chunked(bytes(1024 * 1024), size=size), ChunkedDecoder()
    assert len(decoder.decode(raw)) == 1024 * 1024


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/v2/x?_state=a%2fB%2B~c%3d%3D", "/v2/x?_state=a%2fB%2B~c%3d%3D"),
        ("https://registry.example.com/v2/x?q=%7e#part", "/v2/x?q=%7e"),
        ("abc?_state=1", "/v2/team/app/blobs/uploads/abc?_state=1"),
        ("?page=2", "/v2/team/app/blobs/uploads/?page=2"),
        ("//registry.example.com/x", "/x"),
    ],
)
def test_locations_are_resolved_and_left_as_they_are(text: str, expected: str) -> None:
    url = BASE.join(text)
    assert (url.origin, url.target) == (BASE.origin, expected)


def test_default_ports_are_the_same_origin() -> None:
    assert BASE.join("https://REGISTRY.example.com:443/x").origin == BASE.origin
    assert BASE.join("https://registry.example.com:444/x").origin != BASE.origin
    assert BASE.join("http://registry.example.com/x").origin != BASE.origin


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ftp://registry.example.com/",
        "file:///etc/passwd",
        "https://user:secret@registry.example.com/",
        "https://registry.example.com:99999/",
        "https://registry.example.com:0/",
        "https:///v2/",
        "https://registry.example.com\\@evil.example/",
        "https://registry.example.com/\r\nHost: evil.example",
        "https://registry.example.com/a b",
        "https://régistry.example.com/",
        "/" + "x" * 20_000,
    ],
)
def test_what_is_no_plain_url_is_refused(text: str) -> None:
    with pytest.raises(InvalidUrlError):
        BASE.join(text)


def test_a_parameter_is_appended_and_the_rest_untouched() -> None:
    assert (
        BASE.join("/u?_state=a%2b").with_parameter("digest", "sha256:ab").target == "/u?_state=a%2b&digest=sha256%3Aab"
    )
    assert BASE.join("/u").with_parameter("digest", "sha256:ab").target == "/u?digest=sha256%3Aab"
    assert BASE.join("/u?").with_parameter("n", "1").target == "/u?n=1"


def test_a_url_prints_without_its_query() -> None:
    assert str(BASE.join("/u?token=secret")) == "https://registry.example.com/u"
    assert str(Url.parse("http://[2001:DB8::1]:5000/x")) == "http://[2001:db8::1]:5000/x"


@given(st.text())
def test_any_text_is_a_url_of_visible_ascii_or_refused(text: str) -> None:
    try:
        url = BASE.join(text)
    except InvalidUrlError:
        return
    assert all("\x20" < letter < "\x7f" for letter in url.target)
    assert url.target.startswith("/")


@pytest.mark.parametrize(
    ("text", "number"), [("0", 0), ("0012", 12), ("9" * 18, int("9" * 18)), ("²", None), ("٣", None)]
)
def test_a_number_is_ascii_digits(text: str, number: int | None) -> None:
    assert whole_number(text) == number


@pytest.mark.parametrize("text", ["", "-1", "1.5", " 1", "9" * 19, "9" * 5_000])
def test_what_fits_no_database_is_no_number(text: str) -> None:
    assert whole_number(text) is None
