"""Every problem the API answers with: its code, its status, and a sentence for the OpenAPI document's examples."""

from __future__ import annotations

from typing import Any, NamedTuple

from app.net.http_headers import PRODUCT

PROBLEM_MEDIA_TYPE = "application/problem+json"
PROBLEM_SCHEMA = {"$ref": "#/components/schemas/Problem"}

TITLES = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    409: "Conflict",
    412: "Precondition Failed",
    413: "Content Too Large",
    414: "URI Too Long",
    415: "Unsupported Media Type",
    422: "Unprocessable Content",
    429: "Too Many Requests",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
}
"""As RFC 9110 names them; Python's own names differ from version to version, and the document shall not."""


class Known(NamedTuple):
    """A problem's status, and what its `detail` may read like."""

    status: int
    detail: str


PROBLEMS: dict[str, Known] = {
    "malformed_json": Known(400, "the body is not JSON: Expecting value at character 0"),
    "unauthenticated": Known(401, "an API key is needed: Authorization: Bearer <key>"),
    "hook_rejected": Known(401, "there is no such hook, or its secret is missing or wrong"),
    "insufficient_scope": Known(403, "this needs the scope jobs:submit, which the key 'ci' does not have"),
    "address_not_allowed": Known(403, "this API key may not be used from 203.0.113.7"),
    "not_granted": Known(403, "this key may not copy to registry.example.com/team-b/app"),
    "local_callers_only": Known(403, "no API key exists yet, so only callers on this machine are served"),
    "not_found": Known(404, "there is no such job"),
    "method_not_allowed": Known(405, "PATCH is not among this resource's methods: DELETE, GET, HEAD"),
    "job_already_finished": Known(409, "the job is succeeded already"),
    "nothing_to_retry": Known(409, "every image of the job has arrived"),
    "plan_not_finished": Known(409, "the plan does not say all there is to do: it still runs, or was cut off"),
    "job_not_finished": Known(409, "the job is still running; cancel it first"),
    "name_conflict": Known(409, "there is a key called 'ci' already"),
    "registry_in_use": Known(409, "docker.io is used by the policies hub-mirror; ?force=true removes it"),
    "host_taken": Known(409, "old.azurecr.io is entered already, as 'old-acr'"),
    "conflict": Known(409, "others keep changing this entry; try again"),
    "subscription_disabled": Known(409, "'ci' is switched off; enable it first"),
    "precondition_failed": Known(412, "this is at version 7 now; read it again"),
    "hook_too_large": Known(413, "a delivery has at most 2097152 bytes and 1000 events"),
    "payload_too_large": Known(413, "the body is larger than this service takes"),
    "uri_too_long": Known(414, "a path and its query have at most 8192 bytes here"),
    "unsupported_media_type": Known(415, "the body has to be JSON, with Content-Type: application/json"),
    "validation_failed": Known(422, "'Team/App' is not a repository name; repositories are lower case"),
    "import_unreadable": Known(422, "the images file can't be read: it is neither YAML nor JSON in line 3"),
    "invalid_cursor": Known(
        422, "the cursor can't be used: the list's filter has changed since; begin again without it"
    ),
    "invalid_idempotency_key": Known(422, "an idempotency key has 1 to 255 printable characters"),
    "idempotency_key_reused": Known(422, "this idempotency key came with another body before"),
    "host_not_allowed": Known(
        422, "127.0.0.1 is not a public address; PUT /v1/registries/{name} with this host to allow it"
    ),
    "secret_required": Known(422, "/proxy changes, so the password has to be sent again"),
    "too_many_requests": Known(429, "'ci' has 2 plans open here, which is all it may"),
    "quota_exceeded": Known(429, "'ci' has 10000 jobs that are not done, and may have 10000"),
    "last_admin_key": Known(409, "this is the last key that may do everything; make another one first"),
    "internal": Known(500, "something went wrong here; the log has it by request_id"),
    "method_not_implemented": Known(501, "this method is used nowhere here"),
    "unavailable": Known(503, "something this service needs does not answer; try again soon"),
    "database_unreachable": Known(503, "the database does not answer; try again soon"),
    "schema_outdated": Known(503, "the database is at revision 0001; run `registry-sync migrate`"),
    "secret_unreadable": Known(503, "a stored secret can't be opened: its key is not among the secret keys"),
}

_OF_EVERY_ROUTE = (
    "uri_too_long",
    "unauthenticated",
    "insufficient_scope",
    "address_not_allowed",
    "local_callers_only",
    "too_many_requests",
    "internal",
    "database_unreachable",
)
_OF_EVERY_BODY = ("malformed_json", "payload_too_large", "unsupported_media_type", "validation_failed")


def problems(*codes: str, takes_body: bool = False, is_public: bool = False) -> dict[int | str, dict[str, Any]]:
    """Describe a route's problems for OpenAPI: its own, and those that every route has."""
    shared = ("uri_too_long", "internal") if is_public else _OF_EVERY_ROUTE
    described: dict[int | str, dict[str, Any]] = {}
    for code in (*codes, *(_OF_EVERY_BODY if takes_body else ()), *shared):
        known = PROBLEMS[code]
        content = {PROBLEM_MEDIA_TYPE: {"schema": PROBLEM_SCHEMA, "examples": {}}}
        answer = described.setdefault(known.status, {"description": TITLES[known.status], "content": content})
        answer["content"][PROBLEM_MEDIA_TYPE]["examples"][code] = {"value": _example(code, known)}
    return described


def _example(code: str, known: Known) -> dict[str, Any]:
    example: dict[str, Any] = {
        "type": f"urn:{PRODUCT}:problem:{code}",
        "title": TITLES[known.status],
        "status": known.status,
        "detail": known.detail,
        "code": code,
        "request_id": "019ab2c4d5e67f8091a2b3c4d5e6f708",
    }
    if code == "validation_failed":
        example["errors"] = [{"pointer": "/source", "code": "invalid_repository", "detail": known.detail}]
    return example
