"""The contract, tried on the running service: every endpoint is asked what the document allows, and what it does not.

    make test-contract

Schemathesis makes the requests. None may be answered with 5xx, and every answer has a status, a type and a body as the
document says. The service has no worker, so that nothing is copied; entries that are made up on the way may be checked.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.service import ROOT, ServiceProcess

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)
SETTINGS = {"UNREGISTERED_HOSTS": "allow"}
HOOKS = r"""
import re
import schemathesis

@schemathesis.hook
def before_call(context, case, kwargs):
    for place, name, form, value in (
        (case.query, "wait", r"[0-9]{1,9}[smhd]?", "1s"), (case.headers, "Prefer", r"wait=[0-9]+", "wait=1")
    ):
        if place and re.fullmatch(form, str(place.get(name, ""))):
            place[name] = value
"""
"""No job is ever done, as there is no worker: nothing is learned by waiting for one as long as a request may ask."""


def make_key(folder: Path) -> str:
    """Return the text of a key that may do everything."""
    command = [sys.executable, "-m", "app", "create-key", "--name", "contract", "--scope", "admin"]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    made = subprocess.run(  # noqa: S603 — our own command
        command, cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return made.stdout.strip()


def main() -> int:
    """Try it; return Schemathesis' exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=30, help="of each endpoint")
    parser.add_argument("--phases", default="examples,coverage,fuzzing")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("schemathesis", nargs="+", help="the command that runs it, behind --")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        key = make_key(folder)
        with ServiceProcess(folder, "--no-worker", settings=SETTINGS) as service:
            url = str(service.client.base_url).rstrip("/")
            command = [
                *(*arguments.schemathesis, "run", f"{url}/openapi.json"),
                *("--header", f"Authorization: Bearer {key}", "--checks", ",".join(CHECKS)),
                *("--max-examples", str(arguments.examples), "--seed", str(arguments.seed)),
                *("--request-timeout", "60", "--phases", arguments.phases),
            ]
            (folder / "waits.py").write_text(HOOKS)
            environment = {**os.environ, "SCHEMATHESIS_HOOKS": "waits", "PYTHONPATH": str(folder)}
            code = subprocess.run(command, cwd=folder, env=environment, check=False).returncode  # noqa: S603 — ours
            if code:
                sys.stderr.write(service.log.read_text()[-4_000:])
            return code


if __name__ == "__main__":
    sys.exit(main())
