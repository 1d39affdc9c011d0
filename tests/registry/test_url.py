"""URLs are kept letter for letter, and what is none is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.registry.url import InvalidUrlError, Url

BASE = Url.parse("https://registry.example.com/v2/team/app/blobs/uploads/")


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
