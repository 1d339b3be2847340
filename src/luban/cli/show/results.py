"""Results of the commands, drawn for a person and as facts for a program."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luban.cli.show import words
from luban.records import Report, Score

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

    from luban.models.facts import BaseListing
    from luban.stages import CompressResult, FastestResult, InitResult, Packaged, RunResult

PROJECT = "luban.yaml"
N_SCORES = 6
"""How many of a report's scores stand in a summary; the report has them all."""


def near(path: Path) -> str:
    """Return a path as a user would type it here: relative where it lies under the working folder."""
    real = path.resolve()
    try:
        return str(real.relative_to(Path.cwd().resolve()))
    except ValueError:
        return str(path)


def project_option(path: Path, overrides: Sequence[str] = ()) -> str:
    """Return ` -p PATH` where a next command needs it to find the project, and the settings given beside the file."""
    file = path / PROJECT if path.is_dir() else path
    option = "" if file.resolve() == Path(PROJECT).resolve() else f" -p {shlex.quote(near(file))}"
    return option + "".join(f" {shlex.quote(override)}" for override in overrides)


def bundle_option(folder: Path) -> str:
    """Return ` --bundle DIR` where a next command would not find the bundle by itself."""
    return "" if folder.resolve().is_relative_to(Path("runs").resolve()) else f" --bundle {shlex.quote(near(folder))}"


def init_facts(made: InitResult) -> dict[str, Any]:
    """Return what `luban init` says to a program."""
    return {"path": made.path, "name": made.project.name, "advice": made.advice}


def init(made: InitResult, console: Console) -> RenderableType:
    """Return the settings that were chosen, each with its reason."""
    from rich.console import Group
    from rich.text import Text

    from luban.project.write import scalar

    table = grid()
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold", max_width=None if console.width >= 100 else 28, style="cyan")
    table.add_column(style="dim")
    for advice in made.advice:
        table.add_row(advice.path, words.safe(scalar(advice.value)), words.safe(advice.reason))
    head = Text.assemble(("wrote ", "green"), (near(made.path), "bold"), ", every value with its reason:")
    return Group(head, Text(), table, Text())


def run_facts(ran: RunResult) -> dict[str, Any]:
    """Return what `luban run` says to a program; the whole report is in its folder."""
    return {
        "folder": ran.folder,
        "stages": ran.stages,
        "report": None if ran.report is None else report_facts(ran.report),
        "bundle": ran.bundle,
        "findings": ran.findings,
    }


def report_facts(report: Report) -> dict[str, Any]:
    """Return a report's headlines as JSON values."""
    return {
        "name": report.name,
        "task": report.task,
        "scores": report.scores,
        "baselines": report.baselines,
        "digests": report.digests,
    }


def run(ran: RunResult, console: Console) -> RenderableType:
    """Return the summary of a run: what was done, how good it is, where things are."""
    from rich.console import Group
    from rich.text import Text

    # In a terminal the lines of progress stand right above.
    parts: list[RenderableType] = [*([Text()] if console.is_terminal else []), _stages(ran, console)]
    for finding in ran.findings:
        if finding.verdict != "PASS":
            style = "yellow" if finding.verdict == "WARN" else "red"
            named = ((f"{finding.verdict} ", style), (f"{finding.what}: ", "bold"))
            parts.append(Text.assemble(*named, words.safe(finding.message)))
    if ran.report is not None:
        parts += [Text(), report(ran.report, console)]
    if where := places(ran):
        parts += [Text(), pairs(where)]
    return Group(*parts, Text())


def report(found: Report, console: Console, *, written: bool = True) -> RenderableType:
    """Return the scores with their intervals, and what the baselines reach beside them.

    Args:
        found: the scores.
        console: its width decides how many baselines there is room for.
        written: there is a report on disk that has what is left out here.
    """
    from rich.console import Group
    from rich.text import Text

    table = grid(header=True)
    for column in ("score", "value", "95% interval"):
        table.add_column(header=column, header_style="dim", no_wrap=True, justify="left")
    # A narrow terminal has no room for all of them; the report has.
    baselines = list(found.baselines)[: max((console.width - 46) // 10, 0)]
    for name in baselines:
        table.add_column(header=name, header_style="dim", no_wrap=True, justify="right")
    shown = dict(list(found.scores.items())[:N_SCORES])
    for name, score in shown.items():
        beside = [_value(found.baselines[baseline].get(name)) for baseline in baselines]
        table.add_row(Text(name, style="bold"), Text(_value(score), style="bold green"), _interval(score), *beside)
    counted = max((score.n for score in shown.values()), default=0)
    n_rows = found.details.get("n_rows", counted)
    measured = f"measured on {words.counted(n_rows, 'row')}"
    if found.task == "tag":
        measured += f" with {words.count(counted)} entities"
    if "coverage" in found.scores:
        held, right = 1 - found.scores["coverage"].value, found.scores["selective_accuracy"].value
        measured += f"; {held:.1%} held back as too unsure count as wrong, {right:.1%} of the others are right"
    more = len(found.scores) - len(shown)
    if more > 0:
        measured += f"; the report has {more} more" if written else f"; `-o DIR` writes a report with {more} more"
    return Group(table, Text(measured, style="dim"))


def judged(found: Report, bundle: Path, out: Path | None, console: Console) -> RenderableType:
    """Return a bundle's scores on a file, and where the report is."""
    from rich.console import Group
    from rich.text import Text

    where = {"bundle": near(bundle)}
    if out is not None:
        where["report"] = near(out / "report.html")
    return Group(report(found, console, written=out is not None), Text(), pairs(where))


def compressed_facts(made: CompressResult) -> dict[str, Any]:
    """Return what `luban compress` says to a program."""
    return {
        "folder": made.folder,
        "points": [{**point.to_json(), "on_frontier": point in made.best} for point in made.points],
        "chosen": None if made.chosen is None else made.chosen.to_json(),
        "lost_on_test": None if made.lost is None else made.lost.to_json(),
        "bundle": made.bundle,
    }


def compressed(made: CompressResult, console: Console) -> RenderableType:
    """Return what every plan costs and loses, the frontier marked, and what was chosen."""
    from rich.console import Group
    from rich.text import Text

    table = grid(header=True)
    table.add_column(header="plan", header_style="dim", overflow="fold")
    for column in ("size", "", "answer", "", "points lost", "95% interval"):
        table.add_column(header=column, header_style="dim", no_wrap=True, justify="right")
    for point in made.points:
        is_kept, is_chosen = point in made.best, point == made.chosen
        lost = point.lost
        style = "bold green" if is_chosen else "" if is_kept else "dim"
        table.add_row(
            Text(f"{'●' if is_kept else '○'} {point.name}", style=style),
            words.megabytes(point.size_mb), f"{point.smaller:.1f}x", f"{point.latency_ms:.2f} ms",
            f"{point.faster:.1f}x", f"{lost.value * 100:+.2f}", f"{lost.low * 100:+.2f} to {lost.high * 100:+.2f}",
        )  # fmt: skip
    parts: list[RenderableType] = [Text(), table]
    where = {"tried": near(made.folder / "compress.html")}
    if made.chosen is not None and made.lost is not None:
        ends = f"{made.lost.low * 100:+.2f} to {made.lost.high * 100:+.2f}"
        told = f"{made.lost.value * 100:+.2f} points lost on {words.counted(made.lost.n, 'test row')}, {ends}"
        parts += [Text(), Text.assemble(("chosen ", "green"), (made.chosen.name, "bold"), f": {told}")]
    if made.bundle is not None:
        where["bundle"] = f"{near(made.bundle.folder)}  {made.bundle.digest[:12]}"
    return Group(*parts, Text(), pairs(where), Text())


def fastest_facts(found: FastestResult) -> dict[str, Any]:
    """Return what `luban export --fastest` says to a program."""
    return {"project": found.project, "tried": found.tried, "chosen": found.chosen, "settings": dict(found.settings)}


def fastest(found: FastestResult) -> RenderableType:
    """Return what every way to run the model does here, and what was written down."""
    from rich.console import Group
    from rich.text import Text

    table = grid(header=True)
    table.add_column(header="runtime", header_style="dim", no_wrap=True)
    for column in ("threads", "one text", "99th", "many", "logits differ", "points lost"):
        table.add_column(header=column, header_style="dim", no_wrap=True, justify="right")
    notes = []
    for way in found.tried:
        if way.timing is None:
            notes.append(Text(f"{way.name} is not taken: {words.safe(way.refused)}", style="yellow"))
            continue
        timing, is_chosen = way.timing, way == found.chosen
        table.add_row(
            Text(f"{'●' if is_chosen else '○'} {way.name}", style="bold green" if is_chosen else ""),
            str(way.threads), f"{timing.latency.p50_ms:.2f} ms", f"{timing.latency.p99_ms:.2f} ms",
            f"{timing.throughput.windows_per_s:,.0f}/s", f"{way.max_difference:.1g}",
            "" if way.lost is None else f"{way.lost.value * 100:+.2f}",
        )  # fmt: skip
    told = ", ".join(f"{name} {value}" for name, value in found.settings.items())
    wrote = Text.assemble(("wrote ", "green"), (near(found.project), "bold"), f", export: {told}")
    return Group(Text(), table, *notes, Text(), wrote, Text())


def packaged_facts(made: Packaged) -> dict[str, Any]:
    """Return what `luban export --for` says to a program."""
    return {
        "kind": made.kind, "folder": made.folder, "bundle": made.bundle, "size_mb": made.size_mb, "rows": made.rows,
        "rows_from": made.rows_from, "proof": made.proof,
    }  # fmt: skip


def packaged(made: Packaged) -> RenderableType:
    """Return where a package is, and how near its answers are."""
    from rich.console import Group
    from rich.text import Text

    proof = made.proof
    compared = (
        f"on {words.count(made.rows)} of {made.rows_from}: largest difference {proof['max_difference']:.2g} "
        f"({proof['allowed']:.2g} allowed), {proof['labels_agree']:.2%} the same labels"
    )
    where = {
        "package": f"{near(made.folder)}  {words.megabytes(made.size_mb)}", "read": near(made.folder / "README.md"),
        "bundle": near(made.bundle), "compared": compared,
    }  # fmt: skip
    return Group(Text.assemble(("packaged ", "green"), "for ", (made.kind, "bold")), Text(), pairs(where), Text())


def bases(listed: Sequence[BaseListing], console: Console, *, whole: bool) -> RenderableType:
    """Return the bases as a table, or everything that is known of one."""
    from rich.console import Group
    from rich.text import Text

    if whole or console.width < 60:
        return Group(*(part for base in listed for part in (_base(base), Text())))
    wide = console.width >= 110
    table = grid(header=True)
    for column in ("base", "size", *(["parameters"] if wide else []), "languages", "here"):
        right = column in ("size", "parameters")
        table.add_column(header=column, header_style="dim", no_wrap=True, justify="right" if right else "left")
    for column in ("good for", "licence") if wide else ("licence",):
        table.add_column(header=column, header_style="dim", overflow="fold")
    for base in listed:
        row: list[RenderableType] = [Text(base.name, style="bold"), words.megabytes(base.size_mb)]
        row += [f"{base.parameters / 1e6:.0f} M"] if wide else []
        row += [_some(base.languages, 3), _here(base), *([base.good_for] if wide else []), base.licence]
        table.add_row(*row)
    foot = "a base that is not here is fetched when a project first uses it; `luban bases NAME` tells more of one"
    return Group(table, Text(), Text(foot, style="dim"))


def _base(base: BaseListing) -> RenderableType:
    facts = {
        "base": base.name,
        "what": base.what,
        "size": f"{words.megabytes(base.size_mb)}, {words.count(base.parameters)} parameters",
        "languages": ", ".join(base.languages),
        "licence": base.licence,
        "good for": base.good_for,
        "not for": base.not_good_for,
        "here": _here(base),
    }
    return pairs({name: fact for name, fact in facts.items() if fact})


def _here(base: BaseListing) -> str:
    if base.missing:
        return f"needs {', '.join(base.missing)}"
    return "yes" if base.here else "no"


def _some(names: Sequence[str], most: int) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _stages(ran: RunResult, console: Console) -> RenderableType:
    from rich.text import Text

    table = grid(header=True)
    for column in ("stage", "", "time", "memory"):
        right = column in ("time", "memory")
        table.add_column(header=column, header_style="dim", no_wrap=True, justify="right" if right else "left")
    table.add_column(style="dim")
    for stage in ran.stages:
        skipped = stage.state == "skipped"
        table.add_row(
            Text(stage.name, style="bold"),
            Text(stage.state, style="dim" if skipped else "green"),
            "" if skipped else words.seconds(stage.seconds),
            "" if skipped or not stage.peak_memory_mb else words.megabytes(stage.peak_memory_mb),
            words.safe(stage.why),
        )
    return table


def places(ran: RunResult) -> dict[str, str]:
    """Return what a user opens after a run -> its path as typed here."""
    found = {} if ran.report is None else {"report": near(ran.folder / "report.html")}
    if (bundle := ran.bundle) is not None:
        size_mb = sum(file.stat().st_size for file in bundle.folder.rglob("*") if file.is_file()) / 1e6
        found["bundle"] = f"{near(bundle.folder)}  {words.megabytes(size_mb)}, {bundle.digest[:12]}"
    return found


def pairs(facts: Mapping[str, str]) -> RenderableType:
    """Return names and facts, line by line."""
    table = grid()
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, fact in facts.items():
        table.add_row(name, words.safe(fact))
    return table


def grid(*, header: bool = False) -> Table:
    """Return a table without lines, as all results are shown."""
    from rich.table import Table

    return Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=header)


def _value(score: Score | None) -> str:
    return "" if score is None else f"{score.value:.4f}"


def _interval(score: Score) -> str:
    return f"{score.low:.4f} to {score.high:.4f}"
