"""A parity report on the terminal: one line per way to render the file, in words and colours."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dora_core.parity_report import ParityReport
from dora_core.rendering import VERDICTS, Verdict

_STYLES: dict[Verdict, str] = {"exact": "green", "close": "yellow", "coarse": "yellow", "wrong": "red", "unread": "dim"}


def print_report(report: ParityReport, console: Console) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("", "program", "way", "what it makes of the file, errors as shares of the update"):
        table.add_column(heading, style="dim" if heading == "way" else None, no_wrap=not heading)
    for parity in report.consumers:
        table.add_row(
            Text(VERDICTS[parity.verdict], _STYLES[parity.verdict]),
            parity.consumer.program,
            parity.consumer.path,
            Text(parity.words),
        )
    console.print(table)
    console.print(Text(f"Not certified: {'; '.join(report.not_certified)}.", "dim"))
    console.print(Text(report.headline, "bold green" if report.passed else "bold red"))
