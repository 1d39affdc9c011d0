"""A job as lines for a terminal: followed, and submitted once more."""

from __future__ import annotations

import json
import shlex
from typing import Any

from app.domain.job import Job

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
    return [
        follow,
        ("curl", "Submit it again", f"curl {jobs} -H {_LOGIN} {header} --data-binary {body}"),
        ("httpie", "Submit it again", f"http POST {jobs} {_LOGIN} --raw {body}"),
    ]


def _body(job: Job) -> dict[str, Any]:
    body = job.request.model_dump(mode="json", exclude_defaults=True)
    return {**body, "labels": dict(job.labels)} if job.labels else body
