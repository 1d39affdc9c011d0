"""What the service refuses, in the words of the command line: options for fields, commands for requests."""

from __future__ import annotations

import re
from collections.abc import Mapping

import httpx

from app.domain.errors import NotFoundError, RegistrySyncError, UnavailableError

_WRONG = frozenset({"validation_failed", "import_unreadable", "invalid_cursor", "malformed_json", "uri_too_long"})
"""Codes of what is wrong with a request itself; all others are refusals."""
_KEY = "--key, REGISTRY_SYNC_KEY, or `key_file` of a context"
_WORDS = (
    ("Authorization: Bearer <key>", _KEY),
    ("enter them at PUT /v1/registries/{name} with this host", "enter them: registry-sync registry add NAME HOST"),
    ("PUT /v1/registries/{name} with this host", "enter it: registry-sync registry add NAME HOST"),
    (
        "set insecure at PUT /v1/registries/{name} (--insecure on the command line)",
        "registry-sync registry add NAME HOST --insecure",
    ),
    ("set insecure at PUT /v1/registries/{name}", "registry-sync registry add NAME HOST --insecure"),
    ("?force=true removes it", "--force removes it"),
    ("tags.include", "--tags"),
)
"""What the service says to send, and what is typed for that; the longer ones first."""
_LOCAL_WORDS = (
    ("enter them at PUT /v1/registries/{name} with this host", "give --source-creds or --destination-creds"),
    (
        "set insecure at PUT /v1/registries/{name} (--insecure on the command line)",
        "give --insecure-source or --insecure-destination, for both --insecure",
    ),
    ("set insecure at PUT /v1/registries/{name}", "give --insecure-source or --insecure-destination"),
)
"""Of a copy without a service, where registries are no entries but options; these go first."""
_COPIES = frozenset({"/v1/jobs", "/v1/plan"})
"""Where `sync`, `plan` and `verify` send what they were given."""
_OF_COPIES = (
    (r"(/rules/\d+)?/source", "SOURCE"),
    (r"(/rules/\d+)?/destination(/\d+)?", "DESTINATION"),
    (r"(/rules/\d+)?/tags/include(/\d+)?", "--tags"),
    (r"(/rules/\d+)?/tags/exclude(/\d+)?", "--exclude-tags"),
    (r"(/rules/\d+)?/platforms(/\d+)?", "--platform"),
    (r"/options/overwrite", "--overwrite"),
)
"""Fields of that, and the options and arguments they were."""
_ARGUMENTS = {"job_id": "JOB", "image_id": "IMAGE", "q": "--search", "explain": "--explain"}


class RefusedError(RegistrySyncError):
    """The service answered with an error; the message says why."""

    code = "refused"


class WrongArgumentError(RegistrySyncError):
    """An argument can't be what was meant."""

    code = "wrong_argument"


def check(answer: httpx.Response, *, is_local: bool = False) -> None:
    """Raise for an answer that is no success, with its code.

    `WrongArgumentError`, `NotFoundError`, `RefusedError` or `UnavailableError`.
    """
    if answer.is_success:
        return
    answer.read()
    text, code = _text_and_code(answer)
    text = in_words_of_commands(text, is_local=is_local)
    if answer.status_code == httpx.codes.NOT_FOUND:
        raise NotFoundError(text, code=code)
    if answer.is_server_error:
        raise UnavailableError(text, code=code)
    if code in _WRONG:
        raise WrongArgumentError(text, code=code)
    raise RefusedError(text, code=code)


def in_words_of_commands(text: str, *, is_local: bool) -> str:
    """Return an error of the service with what to type, where it says what to send.

    `is_local`: without a service, where registries are no entries but options.
    """
    for said, typed in (*(_LOCAL_WORDS if is_local else ()), *_WORDS):
        text = text.replace(said, typed)
    return text


def _text_and_code(answer: httpx.Response) -> tuple[str, str | None]:
    try:
        problem = answer.json()
        detail, code = str(problem["detail"]), problem.get("code")
    except (ValueError, KeyError, TypeError, AttributeError):
        address = answer.request.url.copy_with(query=None)
        return f"the service answered {answer.status_code}; is {address} its address?", None
    try:
        fields = [_field(error, answer.request.url.path) for error in problem.get("errors") or ()]
    except (KeyError, TypeError, AttributeError):
        fields = []
    return "; ".join(fields) or detail, code


def _field(error: Mapping[str, str], path: str) -> str:
    place, parameter = error.get("pointer") or "", error.get("parameter")
    if parameter == "name" and not path.endswith("/import"):
        place = "NAME"
    elif parameter:
        place = _ARGUMENTS.get(parameter, f"--{parameter.replace('_', '-')}")
    elif path in _COPIES:
        place = next((option for pattern, option in _OF_COPIES if re.fullmatch(pattern, place)), place)
    return f"{place}: {error['detail']}" if place else error["detail"]
