"""What `luban check` and `luban doctor` found, as a list that reads from the worst to the mend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from luban.cli.show import words
from luban.records import Finding

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_STYLES = {"PASS": "green", "WARN": "yellow", "FAIL": "bold red"}
_SIGNS = {"PASS": "✓", "WARN": "▲", "FAIL": "✗"}
_ASCII_SIGNS = {"PASS": "+", "WARN": "!", "FAIL": "x"}


def draw(findings: Sequence[Finding], console: Console) -> RenderableType:
    """Return the findings as a table: sign and verdict, what was looked at, what was found, examples, mend."""
    from rich.cells import cell_len
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    signs = _ASCII_SIGNS if console.options.ascii_only else _SIGNS
    widest = 14 if console.width < 70 else 24
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(style="bold", max_width=widest)
    table.add_column(overflow="fold")
    beside = 12 + min(widest, max((cell_len(finding.what) for finding in findings), default=0))
    for finding in findings:
        style = _STYLES.get(finding.verdict, "")
        said = Text(words.safe(finding.message, lines=True))
        for example in finding.examples:
            row = Text(f"\n  {words.safe(example)}", style="dim")
            # Beside the two other columns; a row that is cut is still found by its number.
            row.truncate(max(console.width - beside, 12), overflow="ellipsis")
            said.append_text(row)
        if finding.mend and finding.verdict != "PASS":
            said.append_text(Text.assemble(("\nfix: ", "cyan"), words.safe(finding.mend, lines=True)))
        verdict = Text(f"{signs.get(finding.verdict, ' ')} {finding.verdict}", style=style)
        table.add_row(verdict, words.safe(finding.what), said)
    return Group(table, Text(), summary(findings))


def summary(findings: Sequence[Finding]) -> RenderableType:
    """Return one line that counts the verdicts."""
    from rich.text import Text

    words_of = (("FAIL", "to mend", "bold red"), ("WARN", "to look at", "yellow"), ("PASS", "fine", "green"))
    line = Text()
    for verdict, meaning, style in words_of:
        if n := sum(finding.verdict == verdict for finding in findings):
            line.append(", " if line else "").append(f"{n} {meaning}", style)
    return line if line else Text("nothing to look at")


def failed(findings: Sequence[Finding]) -> bool:
    """Return whether anything must be mended."""
    return any(finding.verdict == "FAIL" for finding in findings)
