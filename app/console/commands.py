"""A job as lines for a terminal: followed, and submitted once more."""

from __future__ import annotations

import json
import shlex
from typing import Any

from app.domain.job import Job
from app.domain.request import Options, Rule, SyncRequest
from app.domain.selection import TagSelection

MAX_RULES = 20
"""A request of more rules is no line that people paste."""
_LOGIN = '"Authorization: Bearer $KEY"'


def commands_for(job: Job, *, public_url: str | None) -> list[tuple[str, str, str]]:
    """Return tool, purpose and line of each command; `$KEY` is the reader's, and `$URL` where `public_url` is None."""
    url = shlex.quote(public_url) if public_url else '"$URL"'
    jobs = shlex.quote(f"{public_url}/v1/jobs") if public_url else '"$URL/v1/jobs"'
    follow = ("registry-sync", "Follow it", f"registry-sync jobs watch {job.id} --url {url}")
    if len(job.request.rules) > MAX_RULES:
        return [follow]
    body = shlex.quote(json.dumps(_body(job), ensure_ascii=False))
    header = "-H 'Content-Type: application/json'"
    line = _line(job)
    return [
        follow,
        *([("registry-sync", "Submit it again", f"{line} --url {url}")] if line else ()),
        ("curl", "Submit it again", f"curl {jobs} -H {_LOGIN} {header} --data-binary {body}"),
        ("httpie", "Submit it again", f"http POST {jobs} {_LOGIN} --raw {body}"),
    ]


def _line(job: Job) -> str | None:
    """Return a request as the command line says it; None where that can't say all of it."""
    request = job.request
    rule, options = request.rules[0], request.options
    plain = Rule(
        source=rule.source,
        destination=rule.destination,
        tags=TagSelection(include=rule.tags.include, exclude=rule.tags.exclude),
        platforms=rule.platforms,
    )
    said = SyncRequest(rules=(plain,), options=Options(overwrite=options.overwrite, force=options.force))
    if said != request or job.labels:
        return None
    words = ["registry-sync", "sync", rule.source, *rule.destination]
    words += [f"--tags={pattern}" for pattern in rule.tags.include]
    words += [f"--exclude-tags={pattern}" for pattern in rule.tags.exclude]
    words += [f"--platform={platform}" for platform in rule.platforms]
    words += [f"--overwrite={options.overwrite}"] if options.overwrite != "always" else []
    return shlex.join([*words, "--force"] if options.force else words)


def _body(job: Job) -> dict[str, Any]:
    body = job.request.model_dump(mode="json", exclude_defaults=True)
    return {**body, "labels": dict(job.labels)} if job.labels else body
