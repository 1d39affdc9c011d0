"""From an answer to a code: three kinds of refusal that are never mixed, and words out of whatever body came."""

import json
from typing import Any

import pytest

from app.registry.http.errors import ErrorContext, Response, error_of_response
from app.registry.http.host_trust import HostTrust
from app.registry.http.message import Headers, Url

HOME = Url.parse("https://registry.example.com/v2/team/app")
NOPE = {"code": "UNAUTHORIZED", "message": "project nope not found: project nope not found"}
QUOTA = {
    "code": "DENIED",
    "message": "adding 10.0 MiB of storage resource, which when updated to current usage of 95.0 MiB will exceed the "
    "configured upper limit of 100.0 MiB.",
}
GOOGLE = {
    "code": "DENIED",
    "message": 'Permission "artifactregistry.repositories.downloadArtifacts" denied on resource '
    '"projects/p/locations/l/repositories/r" (or it may not exist)',
}


def answer(status: int, *errors: dict[str, Any], body: bytes = b"", kind: str = "application/json") -> Response:
    raw = json.dumps({"errors": errors}).encode() if errors else body
    headers = Headers()
    headers.add("content-type", kind)
    return Response(status, headers, raw, HOME, HostTrust.HOME)


def code(status: int, *errors: dict[str, Any], operation: str = "get_manifest", lacks_right: bool = False) -> str:
    context = ErrorContext("registry.example.com", operation, lacks_right=lacks_right)
    return error_of_response(answer(status, *errors), context).code


@pytest.mark.parametrize("operation", ["get_manifest", "list_tags", "ping", "open_blob", "log_in", "put_manifest"])
def test_an_answer_of_a_registry_is_never_unreachable(operation: str) -> None:
    assert "registry_unreachable" not in {code(status, operation=operation) for status in range(400, 500)}


@pytest.mark.parametrize("operation", ["get_manifest", "start_upload", "list_tags", "put_manifest"])
@pytest.mark.parametrize("status", [401, 403])
def test_dead_login_missing_right_and_missing_project_are_three_codes(status: int, operation: str) -> None:
    project = code(status, NOPE, operation=operation, lacks_right=True)
    right = code(status, {"code": "UNAUTHORIZED", "message": "unauthorized to access"}, lacks_right=True)
    assert (project, right) == ("repository_missing", "denied")
    assert code(401, {"code": "UNAUTHORIZED", "message": "authentication required"}) == "unauthorized"


def test_a_missing_project_is_told_with_what_to_do() -> None:
    error = error_of_response(answer(401, NOPE), ErrorContext("registry.example.com", "get_manifest"))
    assert "project nope not found" in error.message
    assert "create it there first" in error.message


@pytest.mark.parametrize(
    ("status", "error", "operation", "expected"),
    [
        (403, QUOTA, "start_upload", "limit_exceeded"),
        (412, QUOTA, "send_blob", "limit_exceeded"),
        (413, {"code": "SIZE_INVALID"}, "put_manifest", "limit_exceeded"),
        (403, GOOGLE, "get_manifest", "denied"),
        (400, {"code": "BAD_REQUEST", "message": "invalid repository name: app"}, "get_manifest", "repository_missing"),
        (400, {"code": "NAME_INVALID", "message": "invalid"}, "start_upload", "repository_missing"),
        (400, {"code": "WHATEVER", "message": "no"}, "get_manifest", "denied"),
        (405, {"code": "UNSUPPORTED", "message": "manifest of this media type"}, "put_manifest", "manifest_rejected"),
        (405, {"code": "UNSUPPORTED", "message": "The operation is unsupported."}, "put_manifest", "denied"),
        (405, {"code": "UNSUPPORTED", "message": "The operation is unsupported."}, "start_upload", "denied"),
        (405, {"code": "DENIED", "message": "no such manifests here"}, "put_manifest", "denied"),
        (400, {"code": "DENIED", "message": "no"}, "put_manifest", "denied"),
        (403, {"code": "MANIFEST_INVALID", "message": "no"}, "put_manifest", "denied"),
    ],
)
def test_refusals_have_the_code_of_their_kind(
    status: int, error: dict[str, str], operation: str, expected: str
) -> None:
    assert code(status, error, operation=operation) == expected


def test_a_5xx_that_names_what_is_wrong_with_a_manifest_refuses_it_at_once() -> None:
    errors: list[dict[str, Any]] = [
        {"code": "UNKNOWN", "message": "unknown error", "detail": {}},
        {"code": "MANIFEST_BLOB_UNKNOWN", "message": "blob unknown to registry", "detail": {"digest": "sha256:abc"}},
        {"code": "MANIFEST_INVALID", "message": "manifest invalid", "detail": "foreign layers are not allowed"},
    ]
    refusal = error_of_response(answer(500, *errors), ErrorContext("registry.example.com", "put_manifest"))
    assert (refusal.code, refusal.temporary) == ("manifest_rejected", False)
    assert "digest sha256:abc" in refusal.message
    assert "foreign layers are not allowed" in refusal.message
    elsewhere = error_of_response(answer(500, *errors), ErrorContext("registry.example.com", "get_manifest"))
    assert (elsewhere.code, elsewhere.temporary) == ("registry_unreachable", True)


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (
            b"<html>\r\n<head><title>400 The plain HTTP request was sent to HTTPS port</title></head><body></body>",
            "text/html",
            "400 The plain HTTP request was sent to HTTPS port",
        ),
        (
            b"<html><head><title>400 No required SSL certificate was sent</title></head>",
            "text/html; charset=utf-8",
            "400 No required SSL certificate was sent",
        ),
        (b"<html><style>p{}</style><body><h1>Sorry</h1><p>Closed &amp; gone</p>", "text/html", "Sorry Closed & gone"),
        (
            b'<?xml version="1.0"?><Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>',
            "application/xml",
            "Request has expired",
        ),
        (b"no such thing here", "text/plain", "no such thing here"),
        (b"\x89PNG", "image/png", ""),
    ],
)
def test_the_words_of_a_page_are_told(body: bytes, kind: str, words: str) -> None:
    context = ErrorContext("registry.example.com", "get_manifest")
    told = error_of_response(answer(400, body=body, kind=kind), context).message
    assert told == f"registry.example.com answered 400{': ' if words else ''}{words}"
