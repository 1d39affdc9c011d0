"""What a measurement prints, and the page it is kept on: one section a case, replaced when the case runs again."""

import os
import platform
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")
_HEAD = """# Measured by `make bench`

Each section is one case, with the machine and the day it ran on. CPU is that of all processes of the copier; ratios are
*ours / theirs* of the same round, as median and range over the rounds. Registries and copier share the cores, so wall
time moves with whatever else the machine does; CPU does so less.
"""


@dataclass(slots=True)
class Table:
    """Figures of one case; `add` prints each row as it comes."""

    columns: Sequence[str]
    title: str = ""
    rows: list[tuple[str, ...]] = field(default_factory=list)

    def add(self, *cells: str) -> None:
        """Add a row, with as many cells as there are columns."""
        if len(cells) != len(self.columns):
            raise ValueError(f"{len(cells)} cells for the columns {', '.join(self.columns)}")
        self.rows.append(cells)
        print("  ".join(cells), flush=True)

    def markdown(self) -> str:
        """Return it as a table that reads well as plain text, too."""
        widths = [max(len(row[number]) for row in (self.columns, *self.rows)) for number in range(len(self.columns))]
        lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in self.rows]
        names = " | ".join(name.ljust(width) for name, width in zip(self.columns, widths, strict=True))
        rule = " | ".join("-" * width for width in widths)
        head = [f"{self.title}\n"] if self.title else []
        return "\n".join([*head, *(f"| {line} |" for line in (names, rule, *lines))])


@dataclass(slots=True)
class Section:
    """All that one case says: what it is, how it was run, its tables."""

    name: str
    what: str
    circumstances: str = ""
    tables: list[Table] = field(default_factory=list)

    def table(self, *columns: str, title: str = "") -> Table:
        """Begin a table."""
        table = Table(columns, title)
        self.tables.append(table)
        print(f"\n{self.name}: {title or self.what}\n" + "  ".join(columns), flush=True)
        return table

    def markdown(self) -> str:
        """Return the section of the page."""
        parts = [f"## {self.name}", self.what, self.circumstances, *(table.markdown() for table in self.tables)]
        return "\n\n".join(part for part in parts if part) + "\n"


def keep(section: Section, page: Path) -> None:
    """Write a section into the page in place of the one of that name; the others stay, in their order."""
    text = page.read_text() if page.exists() else _HEAD
    head, *sections = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    named = {part.partition("\n")[0].removeprefix("## "): part.rstrip() + "\n" for part in sections}
    named[section.name] = section.markdown()
    page.write_text("\n".join([head.rstrip() + "\n", *named.values()]))


def machine() -> str:
    """Return in a few words what this was measured on, and when."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    parts = [
        f"{os.cpu_count()} cores of {_processor()}",
        f"{memory:.0f} GiB",
        f"Linux {platform.release()}",
        f"Python {platform.python_version()}",
        f"{datetime.now(UTC):%Y-%m-%d}",
        f"load {os.getloadavg()[0]:.1f} before",
    ]
    return ", ".join(parts)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def mib(size: float) -> str:
    """Return bytes in MiB."""
    return f"{size / 1024**2:,.0f} MiB"


def milliseconds(seconds: Sequence[float]) -> tuple[str, str, str]:
    """Return the median, the 99th percentile and the longest of some times."""
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return f"{cuts[49] * 1_000:.1f}", f"{cuts[98] * 1_000:.1f}", f"{max(seconds) * 1_000:.1f}"
