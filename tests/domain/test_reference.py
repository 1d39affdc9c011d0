"""Names of things: parsed as the docker command line does, and never let through unchecked."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.domain.reference import (
    Digest,
    InvalidReferenceError,
    Reference,
    Registry,
    Repository,
    Tag,
    digest_tags_of,
    is_digest_tag,
    is_fallback_tag,
    split_host_prefix,
)

HEX = "0123456789abcdef" * 4
HOSTS = st.sampled_from(["a.io", "localhost", "localhost:5000", "10.0.0.1:80", "[::1]:5000", "x-y.example.com"])
PARTS = st.from_regex(r"[a-z0-9]{1,3}((\.|_|__|-{1,3})[a-z0-9]{1,3})?", fullmatch=True)
PATHS = st.lists(PARTS, min_size=1, max_size=4).map("/".join)
TAGS = st.from_regex(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}", fullmatch=True)
DIGESTS = st.from_regex(r"sha256:[0-9a-f]{64}", fullmatch=True) | st.from_regex(r"sha512:[0-9a-f]{128}", fullmatch=True)


@given(host=HOSTS, path=PATHS, tag=st.none() | TAGS, digest=st.none() | DIGESTS)
def test_what_is_written_is_read_again(host: str, path: str, tag: str | None, digest: str | None) -> None:
    text = f"{host}/{path}{f':{tag}' if tag else ''}{f'@{digest}' if digest else ''}"
    parsed = Reference.parse(text)
    assert str(parsed) == text
    assert parsed == Reference.parse(str(parsed))
    assert (parsed.repository.registry, parsed.repository.path) == (host, path)
    assert (parsed.tag, parsed.digest) == (tag, digest)
    assert f"{parsed.repository.namespace}/{parsed.repository.name}".strip("/") == path


@given(text=st.text(max_size=60) | st.from_regex(r"[aB.:1K\u212a]{1,5}/x", fullmatch=True))
@example("MYREG/app")
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    try:
        parsed = Reference.parse(text)
    except InvalidReferenceError:
        return
    assert Reference.parse(str(parsed)) == parsed
    assert "/../" not in f"/{parsed.repository.path}/"
    assert not set(str(parsed)) & set("?#% \n\\")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("redis", "docker.io/library/redis"),
        ("redis:7", "docker.io/library/redis:7"),
        ("bitnami/redis", "docker.io/bitnami/redis"),
        ("index.docker.io/redis", "docker.io/library/redis"),
        ("registry-1.docker.io/library/redis:7", "docker.io/library/redis:7"),
        ("localhost/app", "localhost/app"),
        ("host:5000/app", "host:5000/app"),
        ("EXAMPLE.com/app", "example.com/app"),
        ("LOCALHOST/app", "localhost/app"),
        ("MyReg:443/app", "myreg:443/app"),
        ("my.host/a/b/c:1", "my.host/a/b/c:1"),
    ],
)
def test_short_names_are_docker_hubs(text: str, expected: str) -> None:
    assert str(Reference.parse(text)) == expected


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("a.io/App", "invalid_repository"),
        ("a.io/a//b", "invalid_repository"),
        ("a.io/../etc", "invalid_repository"),
        ("a.io/" + "a" * 256, "invalid_repository"),
        ("a.io/app:" + "t" * 129, "invalid_tag"),
        ("a.io/app:-x", "invalid_tag"),
        ("a.io/app@sha256:abc", "invalid_digest"),
        (f"a.io/app@sha256:{HEX.upper()}", "invalid_digest"),
        (f"a.io/app@md5:{HEX[:32]}", "invalid_digest"),
        (f"a.io/app@sha256:{HEX}/../../x", "invalid_digest"),
        ("a_b.io:x/app", "invalid_host"),
        ("a.io:99999/app", "invalid_host"),
        ("[::1/app", "invalid_host"),
        ("-a.io/app", "invalid_host"),
        ("MYREG/app:1", "invalid_host"),
    ],
)
def test_what_no_registry_takes_is_refused_by_the_part_at_fault(text: str, code: str) -> None:
    with pytest.raises(InvalidReferenceError) as refused:
        Reference.parse(text)
    assert refused.value.code == code
    assert len(str(refused.value)) < 200


def test_a_digest_goes_before_the_tag_and_one_of_them_is_needed() -> None:
    assert Reference.parse(f"a.io/x:1@sha256:{HEX}").target == Digest(f"sha256:{HEX}")
    assert Reference.parse("a.io/x:1").target == Tag("1")
    with pytest.raises(InvalidReferenceError):
        _ = Reference.parse("a.io/x").target


def test_a_registry_knows_its_host_without_the_port() -> None:
    assert Registry("a.io:5000").hostname == "a.io"
    assert Registry("[::1]:5000").hostname == "::1"


@pytest.mark.parametrize(
    ("text", "registry", "prefix"),
    [("a.io", "a.io", ""), ("a.io/x/y", "a.io", "x/y"), ("docker.io/me", "docker.io", "me"), ("me", "docker.io", "me")],
)
def test_a_prefix_is_no_repository(text: str, registry: str, prefix: str) -> None:
    assert split_host_prefix(text) == (registry, prefix)


def test_a_host_that_capitals_alone_make_one_is_no_prefix_either() -> None:
    with pytest.raises(InvalidReferenceError, match=r"such as myreg:443"):
        split_host_prefix("MYREG")


@given(digest=DIGESTS.map(Digest))
def test_tags_that_hang_on_a_digest_are_known_by_their_form(digest: Digest) -> None:
    assert all(is_digest_tag(tag) and not is_fallback_tag(tag) for tag in digest_tags_of(digest))
    assert len(digest_tags_of(digest)) == (3 if digest.algorithm == "sha256" else 0)
    assert is_fallback_tag(f"{digest.algorithm}-{digest.encoded[:64]}")


@pytest.mark.parametrize("tag", ["latest", "sha256-abc", f"sha256-{HEX}.sigs", f"sha256-{HEX[:-1]}g", f"x-{HEX}"])
def test_other_tags_hang_on_nothing(tag: str) -> None:
    assert not is_fallback_tag(tag)
    assert not is_digest_tag(tag)


def test_docker_hubs_names_are_one_registry() -> None:
    assert Repository.parse("index.docker.io/library/x") == Repository.parse("x")
