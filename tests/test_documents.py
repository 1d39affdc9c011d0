"""The documents are there, lead somewhere, and name what exists."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import get_args
from urllib.parse import unquote

import pytest
import yaml

from app.domain.report import WARNINGS
from app.domain.request import Options, Rule
from tests.test_house_rules import tracked

README_LINES = 150
SECTIONS = ("Context", "Options", "Decision", "Consequences", "Enforced by")
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def pages(project: Path) -> list[Path]:
    return [path for path in tracked(project) if path.suffix == ".md"]


def anchors(page: Path) -> set[str]:
    """List what can be linked to: each heading, as GitHub spells it."""
    headings = re.findall(r"^#+ (.+)$", _FENCED.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_is_an_entry_page(project: Path) -> None:
    assert len((project / "README.md").read_text().splitlines()) <= README_LINES


@pytest.mark.parametrize(
    "name", ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE", ".pre-commit-config.yaml"]
)
def test_what_a_reader_of_a_project_looks_for_is_there(project: Path, name: str) -> None:
    assert (project / name).stat().st_size > 0


def test_links_between_documents_lead_somewhere(project: Path) -> None:
    broken = {}
    for page in pages(project):
        for link in _LINK.findall(_FENCED.sub("", page.read_text())):
            if "://" in link:
                continue
            name, _, anchor = unquote(link).partition("#")
            target = (page.parent / name).resolve() if name else page
            if not target.exists() or (anchor and anchor not in anchors(target)):
                broken[f"{page.relative_to(project)}: {link}"] = str(target)

    assert broken == {}


def test_every_page_is_linked_from_another(project: Path) -> None:
    linked = {
        (page.parent / link.partition("#")[0]).resolve()
        for page in pages(project)
        for link in _LINK.findall(page.read_text())
        if "://" not in link and link.partition("#")[0]
    }

    assert {page for page in pages(project) if page.is_relative_to(project / "docs")} - linked == set()


def test_files_of_ours_that_are_named_exist(project: Path) -> None:
    missing = {}
    for page in pages(project):
        for file in re.findall(r"(?<![\w/.-])(?:[a-z_]+/)+[a-z_]+\.(?:py|json|toml)\b", page.read_text()):
            if not any((root / file).exists() for root in (project, project / "app", page.parent)):
                missing[f"{page.relative_to(project)}: {file}"] = "is not there"

    assert missing == {}


def test_the_licence_is_the_one_that_is_declared(project: Path) -> None:
    declared = tomllib.loads((project / "pyproject.toml").read_text())["project"]["license"]
    text = (project / "LICENSE").read_text()

    assert declared == "Apache-2.0"
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_the_version_has_a_dated_entry_below_the_unreleased_one(project: Path) -> None:
    version = tomllib.loads((project / "pyproject.toml").read_text())["project"]["version"]
    headings = re.findall(r"^## (.+)$", (project / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert headings[0] == "[Unreleased]"
    assert re.fullmatch(rf"\[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d", headings[1])


def test_decisions_have_a_status_a_date_and_all_sections(project: Path) -> None:
    records = sorted((project / "docs" / "decisions").glob("0*.md"))
    index = (project / "docs" / "decisions" / "README.md").read_text()
    assert len(records) >= 10
    for record in records:
        text = record.read_text()
        title = re.match(r"# (\d{4}) (.+)\n", text)
        assert title, record
        assert record.name.startswith(f"{title[1]}-")
        assert re.search(r"^- \*\*Status:\*\* (proposed|accepted|replaced by \d{4})$", text, re.MULTILINE), record
        assert re.search(r"^- \*\*Date:\*\* \d{4}-\d\d-\d\d", text, re.MULTILINE), record
        assert re.findall(r"^## (.+)$", text, re.MULTILINE) == list(SECTIONS), record
        assert f"[{title[1]}]({record.name}) | {title[2]} |" in index, record


def test_every_format_of_push_events_has_a_section(project: Path) -> None:
    page = project / "docs" / "push-events.md"
    linked = dict(re.findall(r"\[`([a-z_]+)`\]\(#([a-z-]+)\)", page.read_text()))
    formats = {path.stem for path in (project / "tests" / "data" / "hooks").iterdir() if path.is_dir()}

    assert linked.keys() == formats
    assert set(linked.values()) <= anchors(page)


def test_every_field_of_a_request_is_explained(project: Path) -> None:
    text = (project / "docs" / "jobs-and-plans.md").read_text()
    explained = set(re.findall(r"`(?:[a-z]+\.)?([a-z_]+)`", text))

    assert {*Rule.model_fields, *Options.model_fields} <= explained
    for mode in get_args(Rule.model_fields["platform_mode"].annotation):
        assert f"`{mode}`" in text


def test_every_warning_has_words_and_is_explained(project: Path) -> None:
    given = re.compile(r'(?:JobWarning|list_warnings\.add)\(\s*"(\w+)"')
    used = {code for file in (project / "app").rglob("*.py") for code in given.findall(file.read_text())}
    assert len(used) > 5
    assert used <= set(WARNINGS)
    explained = (project / "docs/jobs-and-plans.md").read_text()
    assert [code for code in WARNINGS if f"`{code}`" not in explained] == []


def test_continuous_integration_runs_the_same_as_everybody(project: Path) -> None:
    [workflow] = (project / ".github" / "workflows").iterdir()
    [job] = yaml.safe_load(workflow.read_text())["jobs"].values()
    hooks = [
        hook
        for source in yaml.safe_load((project / ".pre-commit-config.yaml").read_text())["repos"]
        for hook in source["hooks"]
    ]

    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands == [".ci/run", "make test-hostile test-contract", "make licenses audit"]
    assert [hook["entry"] for hook in hooks] == ["make lint", "make types", "make imports"]
