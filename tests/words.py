"""Whether a reader finds 36 behaviours by the field's own words: `make words`.

For each behaviour its search word is looked for in `app/`, as an editor's or a repository's search does: files called
after it first, then those with most matching lines. A behaviour is found when the file that implements it is among the
first three.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

LEAST = 35
"""How many of the behaviours have to be found."""
SHOWN = 3
"""How many files a reader opens."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What a reader looks for, by which word, and where it is, relative to `app/`."""

    name: str
    word: str
    file: str


BEHAVIOURS = (
    Behaviour("honours Retry-After", "Retry-After", "registry/ratelimit/adaptive_concurrency.py"),
    Behaviour("skips a tag that is up to date", "up to date", "sync/compare.py"),
    Behaviour("cancels a blob that is being copied", "cancellation", "worker/claims.py"),
    Behaviour("guards against SSRF", "SSRF", "net/address_guard.py"),
    Behaviour("hashes API keys", "SHA-256", "security.py"),
    Behaviour("moves a job through its states", "state machine", "jobs/transitions.py"),
    Behaviour("shows that a worker is alive", "heartbeat", "worker/heartbeat.py"),
    Behaviour("takes over a dead worker's unit", "stalled", "worker/heartbeat.py"),
    Behaviour("backs off before a retry", "backoff", "domain/retry_policy.py"),
    Behaviour("adapts the number of concurrent requests", "AIMD", "registry/ratelimit/adaptive_concurrency.py"),
    Behaviour("writes many requests in one transaction", "group commit", "store/db/database.py"),
    Behaviour("submits once per idempotency key", "idempotency", "store/idempotency.py"),
    Behaviour("writes progress", "progress", "worker/progress_writer.py"),
    Behaviour("counts finished jobs", "jobs finished", "jobs/outbox.py"),
    Behaviour("signs a notification", "signature", "webhooks/outbound.py"),
    Behaviour("gives a delivery up", "dead letter", "domain/dead_letter.py"),
    Behaviour("checks a webhook's secret", "webhook secret", "webhooks/inbound.py"),
    Behaviour("reads Harbor's events", "harbor", "webhooks/dialects/harbor.py"),
    Behaviour("drops a duplicate push event", "duplicate", "services/push_deduplication.py"),
    Behaviour("makes jobs of a push event", "push job", "jobs/push_jobs.py"),
    Behaviour("stops two policies from looping", "loop detection", "store/push_origins.py"),
    Behaviour("fires a schedule once", "fires once", "worker/scheduler.py"),
    Behaviour("runs a policy's jobs one after another", "concurrency group", "store/concurrency_groups.py"),
    Behaviour("writes the tag last", "tag last", "sync/graph.py"),
    Behaviour("copies cosign's tags", "cosign", "sync/referrers.py"),
    Behaviour("lists Docker Hub's repositories", "docker hub", "registry/listing/vendor_apis.py"),
    Behaviour("uploads in chunks", "chunked", "registry/uploads.py"),
    Behaviour("resumes an upload", "resume", "sync/known_blobs.py"),
    Behaviour("writes messages with their cause", "outbox", "jobs/outbox.py"),
    Behaviour("deletes what is old", "retention", "jobs/retention.py"),
    Behaviour("puts SQLite's writers in order", "write queue", "store/db/sqlite.py"),
    Behaviour("has one writer per destination tag", "single writer", "store/units.py"),
    Behaviour("caches registry tokens", "token cache", "registry/auth/authenticator.py"),
    Behaviour("chooses credentials by prefix", "longest (matching )?prefix", "domain/registry.py"),
    Behaviour("keeps a lost claim from writing", "fencing token", "store/units.py"),
    Behaviour("maintains the referrers tag schema", "referrers tag schema", "sync/referrers_tag.py"),
)


def ranked(word: str, app: Path) -> list[str]:
    """List the files with the word, relative to `app`: those called after it, then by matching lines."""
    pattern = re.compile(rf"(?<![a-z]){re.sub('[ -]', '[ _-]', word)}", re.IGNORECASE)
    found = []
    for path in app.rglob("*.py"):
        name = str(path.relative_to(app))
        lines = sum(bool(pattern.search(line)) for line in path.read_text().splitlines())
        if lines:
            found.append((not pattern.search(name), -lines, name))
    return [name for *_, name in sorted(found)]


def missed(app: Path) -> list[str]:
    """Say of each behaviour that is not found what is found instead."""
    lines = []
    for behaviour in BEHAVIOURS:
        files = ranked(behaviour.word, app)
        if behaviour.file not in files[:SHOWN]:
            lines.append(f"{behaviour.name}: {behaviour.word!r} finds {files[:SHOWN]}, not {behaviour.file}")
    return lines


def main() -> None:
    """Print the score; exit with 1 below the least."""
    lines = missed(Path(__file__).parents[1] / "app")
    found = len(BEHAVIOURS) - len(lines)
    print("\n".join([*lines, f"{found} of {len(BEHAVIOURS)} behaviours are found by their word (at least {LEAST})"]))
    sys.exit(found < LEAST)


if __name__ == "__main__":
    main()
