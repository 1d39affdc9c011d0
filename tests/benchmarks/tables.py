"""What a measurement prints."""

from collections.abc import Iterable
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Row:
    """One figure; `against` is the same figure of a peer, measured in the same run."""

    what: str
    figure: float
    unit: str = ""
    against: float | None = None
    peer: str = ""


def show(title: str, rows: Iterable[Row]) -> None:
    """Print rows as they come, then all of them as a table."""
    console = Console(highlight=False)
    table = Table("what", "figure", "peer", "ratio", title=title, title_justify="left")
    for row in rows:
        ratio = f"{row.figure / row.against:.2f}" if row.against else ""
        cells = (row.what, f"{row.figure:,.2f} {row.unit}", f"{row.peer} {row.against or ''}".strip(), ratio)
        console.print("  ".join(cell for cell in cells if cell))
        table.add_row(*cells)
    console.print(table)
