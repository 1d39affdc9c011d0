"""Man pages of all commands, written from what `--help` shows (man-pages(7): sections and fonts)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_SECTION = 1
_EXIT_STATUS = (
    ("0", "Done; of plan: nothing to do."),
    ("1", "Refused, or the service can't be reached."),
    ("2", "A wrong argument or setting."),
    ("3", "A job, a check or a finding is not well."),
    ("4", "A plan, or a file, differs from what is there."),
)


def write_man_pages(command: Any, folder: Path, *, name: str, release: str) -> list[Path]:
    """Write a page for a command and one for each below it, such as `registry-sync-jobs-list.1`; return the files.

    - `command`: a command of typer's
    - `folder`: made where it is not there
    - `name`: what the command is called, its words with spaces between; `release`: stands in the footer
    """
    folder.mkdir(parents=True, exist_ok=True)
    context = command.make_context(name, [], resilient_parsing=True)
    below = {
        word: one for word, one in sorted(getattr(command, "commands", {}).items()) if not getattr(one, "hidden", False)
    }
    file = folder / f"{name.replace(' ', '-')}.{_SECTION}"
    file.write_text(_page(command, context, below, name=name, release=release), encoding="utf-8")
    written = [file]
    for word, one in below.items():
        written += write_man_pages(one, folder, name=f"{name} {word}", release=release)
    return written


def _page(command: Any, context: Any, below: dict[str, Any], *, name: str, release: str) -> str:
    title = name.replace(" ", "-")
    text = " ".join((command.help or "").split())
    lines = [
        f'.TH "{_escaped(title.upper())}" "{_SECTION}" "" "registry-sync {_escaped(release)}" "registry-sync"',
        ".SH NAME",
        f"{_escaped(title)} \\- {_escaped(text.split('. ')[0].rstrip('.'))}",
        ".SH SYNOPSIS",
        f".B {_escaped(name)}",
        _escaped(" ".join(command.collect_usage_pieces(context))),
        ".SH DESCRIPTION",
        _escaped(text),
    ]
    records = [(param.param_type_name, param.get_help_record(context)) for param in command.get_params(context)]
    for heading, kind in (("ARGUMENTS", "argument"), ("OPTIONS", "option")):
        shown = [record for of_kind, record in records if of_kind == kind and record]
        lines += _section(heading, shown)
    lines += _section(
        "COMMANDS", [(f"{title}-{word}({_SECTION})", one.get_short_help_str(200)) for word, one in below.items()]
    )
    lines += _section("EXIT STATUS", list(_EXIT_STATUS))
    return "\n".join(lines) + "\n"


def _section(heading: str, entries: list[tuple[str, str]]) -> list[str]:
    if not entries:
        return []
    lines = [f".SH {heading}"]
    for term, text in entries:
        lines += [".TP", f"\\fB{_escaped(term)}\\fR", _escaped(" ".join(text.split()))]
    return lines


def _escaped(text: str) -> str:
    """Return a text as roff shows it: no letter of it is taken for a request."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")
    text = "".join(letter if letter.isascii() else f"\\[u{ord(letter):04X}]" for letter in text)
    return f"\\&{text}" if text.startswith((".", "'")) else text
