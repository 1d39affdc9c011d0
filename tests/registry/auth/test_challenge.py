"""`WWW-Authenticate` as registries really send it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.registry.auth.challenge import Challenge, Scopes, parse_challenges

BEARER = {"realm": "https://auth.example/token", "service": "registry", "scope": "repository:a/b:pull,push"}
PLAIN = 'Bearer realm="https://auth.example/token",service="registry",scope="repository:a/b:pull,push"'


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([PLAIN], [Challenge("bearer", BEARER)]),
        ([PLAIN, 'Basic realm="x"'], [Challenge("bearer", BEARER), Challenge("basic", {"realm": "x"})]),
        ([f'Basic realm="a, b", {PLAIN}'], [Challenge("basic", {"realm": "a, b"}), Challenge("bearer", BEARER)]),
        (['bEARER REALM = "https://a" , Service=s'], [Challenge("bearer", {"realm": "https://a", "service": "s"})]),
        (
            ["Bearer realm=https://a/t?x=1,service=s"],
            [Challenge("bearer", {"realm": "https://a/t?x=1", "service": "s"})],
        ),
        ([r'Bearer realm="a\"b, c=d"'], [Challenge("bearer", {"realm": 'a"b, c=d'})]),
        (["Negotiate, NTLM TlRMTVNTUAAB==, Basic realm=x"], ["negotiate", "ntlm", "basic"]),
        (["Negotiate", PLAIN], ["negotiate", "bearer"]),
        ([""], []),
        ([], []),
        (["="], []),
    ],
)
def test_challenges_are_read_whatever_their_form(headers: list[str], expected: list[Challenge | str]) -> None:
    found = parse_challenges(headers)
    assert [
        one if isinstance(want, Challenge) else one.scheme for one, want in zip(found, expected, strict=True)
    ] == expected


@given(st.lists(st.text(alphabet='abcBearer realm="\\,= \t:/?', max_size=60)))
def test_no_header_breaks_the_reader(headers: list[str]) -> None:
    parse_challenges(headers)


def test_scopes_of_one_repository_become_one() -> None:
    merged = Scopes.repository("a/b", "pull").merge(Scopes.parse("repository:a/b:push,pull repository:c:pull"))
    assert merged.texts() == ("repository:a/b:pull,push", "repository:c:pull")


def test_a_resource_may_hold_a_port() -> None:
    assert Scopes.parse("repository:host:5000/a:pull").texts() == ("repository:host:5000/a:pull",)


def test_what_a_challenge_asks_is_cut_to_the_resources_wanted_and_never_delete() -> None:
    asked = Scopes.parse("repository:a:pull,delete,metadata_read repository:other:push registry:catalog:*")
    assert asked.restricted_to(Scopes.repository("a", "pull")).texts() == ("repository:a:metadata_read,pull",)


def test_scopes_contain_what_they_allow() -> None:
    both = Scopes.repository("a", "pull", "push")
    assert Scopes.repository("a", "pull") in both
    assert both not in Scopes.repository("a", "pull")
    assert Scopes.repository("b", "pull") not in both
