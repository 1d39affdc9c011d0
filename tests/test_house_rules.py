"""Rules of the house that no linter knows: names, sizes, docstrings, and nothing of this machine in the tree."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

MAX_FILE_LINES = 350
"""Files aim for 300; a few lines more beat a split in the middle of a thought."""
THE_ALGORITHM = "app/sync/copier.py"
"""The one file that may be longer: the copy algorithm is read from top to bottom."""
MAX_WALK_LINES = 450
ON_THE_WALK = {
    "app/api/schemas/jobs.py",
    "app/domain/manifest.py",
    "app/net/stream.py",
    "app/observability.py",
    "app/registry/client.py",
    "app/registry/http/connections.py",
    "app/registry/http/message.py",
    "app/registry/ratelimit/adaptive_concurrency.py",
    "app/registry/requests.py",
    "app/store/db/database.py",
    "app/store/images.py",
    "app/store/jobs.py",
    "app/sync/compare.py",
    "app/sync/planner.py",
    "app/worker/shared_state.py",
}
"""Files that every image enters (`test_walk_of_files.py`) and that tell one thing: a cut would add one to its walk."""
BY_BEHAVIOUR = {
    "api": (
        "access bound_keys caller_tokens check check_permissions cloud_logins egress email ends "
        "failed_authentication imports issuer_logins job_quota large_bodies login_states partial_plans "
        "plan_jobs secrets round_trip unreadable_secrets validation words"
    ),
    "cli": "client_commands light_client registry_login",
    "console": "console live_pages many_rows",
    "importers": "filters readers rules_and_logins version_ranges",
    "jobs": "fair_share",
    "net": "dialer",
    "processes": "restarts what_processes_share",
    "registry/auth": "ecr signed_apis",
    "registry/http": "transport",
    "registry/ratelimit": "transfer_permits",
    "registry": "echoes hostile pool real_registries resumable_uploads",
    "store": "query_plans",
    "sync": (
        "companions completeness damaged_reads destination_claims fan_out faults flat_plans head_hints "
        "platforms push_dates requests state_machine zoo"
    ),
    "webhooks": "dialects",
    "worker": "destination_locks fleet kill_moments outage slots survival troubled_source",
}
"""Tests that look at one behaviour of a whole room; all others are called after the file they test."""
MAX_FUNCTION_LINES = 60
BANNED_MODULES = {"utils", "helpers", "common", "core", "base", "misc"}
BANNED_WORDS = {
    "repo": "repository",
    "image_name": "repository or reference",
    "mirror_job": "job",
    "replicate": "sync",
}
"""In names of ours; the other word is the one with a meaning here."""
NOT_OURS = re.compile(
    r"/work/|/root/|/home/[a-z]|\b(?:TODO|FIXME|XXX)\b"  # a machine's paths, things put off
    r"|https?://[a-z0-9.-]*(?:pypi|npmjs|crates|proxy\.golang)[a-z0-9.-]*"  # package indexes
)
ALLOWED_TO_NAME_PATHS = {"tests/test_house_rules.py", "tests/test_openapi.py"}
TEXTS = {".py", ".md", ".toml", ".yaml", ".yml", ".json", ".http", ".html", ".css", ".js", ".sh", ""}


def tracked(project: Path) -> Iterator[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=project, check=True, capture_output=True, text=True)  # noqa: S607 — found by PATH, as by its users
    for name in filter(None, listed.stdout.split("\0")):
        if (project / name).is_file():
            yield project / name


def modules(project: Path) -> list[Path]:
    return sorted((project / "app").rglob("*.py"))


def test_what_is_waved_through_says_why(project: Path) -> None:
    """A comment that silences a checker has a reason beside it, and so has a test that is left out."""
    unsaid = re.compile(
        r"# noqa(?!: [A-Z0-9, ]+ (?:—|#) \S)|# type: ignore(?!\[[a-z, -]+\] +# \S)"
        r"|pragma: no|pytest\.(?:skip|xfail)\(\)|mark\.(?:skip|xfail)(?!if)(?!\(.*reason=)"
    )
    own = Path(__file__)
    found = [
        f"{path.relative_to(project)}:{number}: {line.strip()}"
        for path in tracked(project)
        if path.suffix == ".py" and path != own
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if unsaid.search(line)
    ]
    assert found == []


def test_no_module_is_called_after_nothing(project: Path) -> None:
    assert [path for path in modules(project) if path.stem in BANNED_MODULES] == []


def test_files_of_the_service_stay_short(project: Path) -> None:
    long = {
        name: lines
        for path in modules(project)
        if (name := str(path.relative_to(project))) != THE_ALGORITHM
        and (lines := _lines(path)) > (MAX_WALK_LINES if name in ON_THE_WALK else MAX_FILE_LINES)
    }

    assert long == {}


def test_functions_stay_short(project: Path) -> None:
    long = {}
    for path in modules(project):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
                size = node.end_lineno - node.lineno + 1
                if size > MAX_FUNCTION_LINES:
                    long[f"{path.relative_to(project)}:{node.name}"] = size

    assert long == {}


def test_tests_mirror_the_tree(project: Path) -> None:
    rooms = [path for path in tracked(project) if path.match("tests/*/*.py") or path.match("tests/*/*/*.py")]
    tests = {path.relative_to(project / "tests") for path in rooms if path.name.startswith("test_")}
    without_file = {
        str(test.with_name(test.name.removeprefix("test_")).with_suffix(""))
        for test in tests
        if test.parts[0] not in {"support", "benchmarks"}
        and not (project / "app" / test.with_name(test.name.removeprefix("test_"))).exists()
    }

    assert without_file == {f"{room}/{name}" for room, names in BY_BEHAVIOUR.items() for name in names.split()}


def test_a_package_is_its_docstring(project: Path) -> None:
    for path in modules(project):
        if path.name == "__init__.py":
            body = ast.parse(path.read_text()).body
            assert len(body) == 1, path
            assert isinstance(body[0], ast.Expr), path


def test_a_map_of_a_package_has_all_its_modules_and_no_other(project: Path) -> None:
    """The docstring of a package is what a newcomer reads first; it names files `so.py` and packages `so/`."""
    wrong = []
    for init in (project / "app").rglob("__init__.py"):
        text = ast.get_docstring(ast.parse(init.read_text())) or ""
        there = {path.name for path in init.parent.glob("*.py")} - {"__init__.py", "__main__.py"}
        packages = {f"{path.parent.name}/" for path in init.parent.glob("*/__init__.py")}
        named = set(re.findall(r"(?<![\w/])[a-z_0-9]+(?:\.py\b|/(?![\w.]))", text))
        folders = {name for name in named if (init.parent / name).is_dir()} - packages  # of pages, style sheets …
        wrong += [f"{init.relative_to(project)} lacks {name}" for name in sorted((there | packages) - named)]
        wrong += [f"{init.relative_to(project)} names {name}" for name in sorted(named - there - packages - folders)]
    assert not wrong


def test_every_module_opens_with_a_sentence(project: Path) -> None:
    for path in modules(project):
        doc = ast.get_docstring(ast.parse(path.read_text()))
        assert doc, path
        assert doc.partition("\n\n")[0].rstrip().endswith((".", ":", "?", "`")), path


def test_names_use_the_words_of_the_house(project: Path) -> None:
    wrong = {}
    for path in modules(project):
        for node in ast.walk(ast.parse(path.read_text())):
            name = _name(node)
            parts = set(re.split(r"_|(?<=[a-z])(?=[A-Z])", name)) if name else set()
            for word in {part.lower() for part in parts} & BANNED_WORDS.keys():
                wrong[f"{path.relative_to(project)}:{name}"] = BANNED_WORDS[word]

    assert wrong == {}


def test_the_suffix_of_a_class_tells_its_room(project: Path) -> None:
    rooms = {"Row": {"store"}, "Store": {"store"}, "Out": {"api"}}
    for path in modules(project):
        room = path.relative_to(project / "app").parts[0]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                for suffix, allowed in rooms.items():
                    assert not node.name.endswith(suffix) or room in allowed, f"{path}: {node.name}"


def test_http_statuses_of_ours_live_at_the_door(project: Path) -> None:
    for path in modules(project):
        room = path.relative_to(project / "app").parts[0]
        if room in {"domain", "jobs", "sync", "store", "services", "worker"}:
            assert "HTTPStatus" not in path.read_text(), path


def test_broad_catches_are_where_they_belong(project: Path) -> None:
    allowed = {
        "app/api/middleware.py",  # one request failing is answered 500
        "app/worker/runner.py",  # one copy failing doesn't stop the others, nor one job's planning
        "app/worker/notifier.py",  # nor one notification
        "app/jobs/push_jobs.py",  # nor one push event
        "app/worker/scheduler.py",  # nor one policy
        "app/worker/worker.py",  # one unit failing doesn't stop the worker
        "app/processes/forking.py",  # a forked process never goes on in what its parent was doing
        "app/store/db/database.py",  # nor one request the others that are written with it
    }
    found = set()
    for path in modules(project):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ExceptHandler) and _catches_everything(node):
                found.add(str(path.relative_to(project)))

    assert found <= allowed


def test_the_tree_names_no_machine_and_puts_nothing_off(project: Path) -> None:
    found = {}
    for path in tracked(project):
        name = str(path.relative_to(project))
        if path.suffix in TEXTS and name not in ALLOWED_TO_NAME_PATHS:
            text = path.read_text(errors="replace")
            for match in NOT_OURS.finditer(text):
                found[f"{name}:{text.count(chr(10), 0, match.start()) + 1}"] = match[0]

    assert found == {}


@pytest.mark.parametrize("name", ["openapi/openapi.json", "openapi/requests.http"])
def test_what_callers_read_is_there(project: Path, name: str) -> None:
    assert (project / name).stat().st_size > 0


def _lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def _name(node: ast.AST) -> str:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return node.name
        case ast.arg():
            return node.arg
        case ast.Name(ctx=ast.Store()):
            return node.id
        case _:
            return ""


def _catches_everything(handler: ast.ExceptHandler) -> bool:
    names = (
        {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)} if handler.type else {"Exception"}
    )
    raises = any(isinstance(node, ast.Raise) and node.exc is None for node in handler.body)
    return bool(names & {"Exception", "BaseException"}) and not raises
