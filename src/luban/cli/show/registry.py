"""What the registry holds and what was done to it, as tables and lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from luban.cli.show import words
from luban.cli.show.results import grid, pairs

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from luban.registry.audit import Entry, Verified
    from luban.registry.store import Collected, Registered
    from luban.registry.version import Move, Version
    from luban.stages.registering import About, Place

_WIDE = 104


def registered(done: Registered) -> RenderableType:
    """Return what a bundle has become."""
    from rich.console import Group
    from rich.text import Text

    version = done.version
    said = "registered " if done.is_new else "registered already: "
    facts = {"digest": version.digest[:12], "size": words.megabytes(version.size_bytes / 1e6)}
    if version.latency_ms is not None:
        facts["latency"] = f"{version.latency_ms:.2f} ms for one text, here"
    if version.main is not None:
        name, score = version.main
        facts[name] = f"{score.value:.4f}, 95% interval {score.low:.4f} to {score.high:.4f}"
    if version.card:
        facts["card states"] = words.safe("; ".join(f"{what}: {_flat(text)}" for what, text in version.card.items()))
    return Group(Text.assemble((said, "green"), (str(version), "bold")), pairs(facts))


def versions(listed: Mapping[str, Sequence[Version]], console: Console) -> RenderableType:
    """Return a table of versions for each model, the newest first."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = []
    for rows in listed.values():
        parts += [_table(list(reversed(rows)), console), Text()]
    if not parts:
        return Text("nothing is registered yet: `luban register` makes the newest bundle under ./runs a version")
    return Group(*parts[:-1])


def about(found: About) -> RenderableType:
    """Return everything that is known of one version."""
    from rich.console import Group
    from rich.text import Text

    version = found.version
    facts = {
        "version": str(version), "aliases": ", ".join(version.aliases),
        "registered": f"{_when(version.at)} by {version.who}",
        "note": version.note, "digest": version.digest, "task": version.task, "base": version.base,
        "data": version.data_digest, "project": version.project_digest,
        "made from": " <- ".join(map(str, found.lineage)), "size": words.megabytes(version.size_bytes / 1e6),
        "latency": "" if version.latency_ms is None else f"{version.latency_ms:.2f} ms for one text when registered",
        **{what: _flat(str(found.card[what])) for what in ("licence", "limits", "use")},
    }  # fmt: skip
    table = grid(header=True)
    for column in ("score", "value", "95% interval"):
        table.add_column(header=column, header_style="dim", no_wrap=True)
    for name, score in version.scores.items():
        table.add_row(name, f"{score.value:.4f}", f"{score.low:.4f} to {score.high:.4f}")
    parts: list[RenderableType] = [pairs({name: fact for name, fact in facts.items() if fact}), Text(), table]
    if found.missing:
        parts += [Text(), Text(f"its card does not state: {', '.join(found.missing)}", style="yellow")]
    for one in found.moves:
        parts.append(Text.assemble((f"{_when(one.at)}  ", "dim"), _told(one)))
    return Group(*parts)


def _flat(text: str) -> str:
    """Return a text of a card on one line, without the marks of a list."""
    return " ".join(" ".join(line.split()).removeprefix("- ") for line in text.splitlines() if line.strip())


def about_facts(found: About) -> dict[str, Any]:
    """Return what `luban versions NAME@N` says to a program."""
    return {
        "version": found.version, "card": found.card, "missing": found.missing,
        "lineage": [str(one) for one in found.lineage], "moves": found.moves,
    }  # fmt: skip


def moved(move: Move) -> RenderableType:
    """Return what an alias names now, and what that was judged by."""
    from rich.console import Group
    from rich.text import Text

    if not move.changed:
        return Text.assemble(
            ("done before: ", "yellow"), _told(move), f" at {_when(move.at)} by {words.safe(move.who)}"
        )
    word = "promoted " if move.kind == "promote" else "rolled back "
    lines: list[RenderableType] = [Text.assemble((word, "green"), _told(move))]
    lines += [Text(f"  {line}", style="dim") for line in _judged(move.evidence)]
    lines += [
        Text(f"  overruled: {words.safe(str(reason))}", style="yellow") for reason in move.evidence.get("refused", ())
    ]
    return Group(*lines)


def entries(found: Sequence[Entry], console: Console) -> RenderableType:
    """Return the audit as a table, the oldest entry first."""
    if not found:
        return line("no entries: nothing that was asked for has been changed yet")
    table = grid(header=True)
    table.add_column(header="", header_style="dim", justify="right", no_wrap=True)
    table.add_column(header="when (UTC)", header_style="dim", no_wrap=True)
    table.add_column(header="who", header_style="dim", overflow="fold")
    table.add_column(header="what", header_style="dim", no_wrap=True)
    table.add_column(header="of", header_style="dim", overflow="fold")
    table.add_column(header="", overflow="fold")
    if console.width >= _WIDE:
        table.add_column(header="hash", header_style="dim", style="dim", no_wrap=True)
    for one in found:
        row = [str(one.seq), _when(one.at), words.safe(one.who), one.action, one.subject, words.safe(_entry(one))]
        table.add_row(*row, *([one.hash[:12]] if console.width >= _WIDE else []))
    return table


def verified(found: Verified) -> RenderableType:
    """Return whether the audit holds, and what to note."""
    from rich.console import Group
    from rich.text import Text

    if found.broken is not None:
        return Text.assemble(("broken ", "bold red"), f"at entry {found.broken}: {words.safe(found.problem)}")
    entries = f"{found.n_entries} entr{'y' if found.n_entries == 1 else 'ies'}"
    proven = []
    if found.noted:
        same = "entry 1 is" if found.noted == 1 else f"entries 1 to {found.noted} are"
        later = found.n_entries - found.noted
        rest = f"; {later} later one{'' if later == 1 else 's'} held by the chain alone" if later else ""
        proven.append(Text(f"{same} what was there when entry {found.noted} was noted{rest}"))
    return Group(
        Text.assemble(("holds ", "green"), f"{entries}, and versions, cards, aliases and keys are as they say"),
        *proven,
        Text.assemble(("note elsewhere: ", "dim"), found.head),
    )


def place(found: Place) -> RenderableType:
    """Return where a registry is and what it holds."""
    return pairs({
        "registry": found.place, "database": f"{found.database}, schema {found.schema}", "objects": found.objects,
        "models": words.count(found.n_models), "versions": words.count(found.n_versions),
        "bundles": f"{words.count(found.n_objects)}, {words.megabytes(found.size_bytes / 1e6)}",
    })  # fmt: skip


def collected(gone: Collected) -> RenderableType:
    """Return what was removed."""
    n = len(gone.names)
    return line(f"{n} removed, {words.megabytes(gone.size_bytes / 1e6)}" if n else "nothing to remove")


def line(text: str) -> RenderableType:
    """Return a line."""
    from rich.text import Text

    return Text(words.safe(text))


def _table(rows: Sequence[Version], console: Console) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    wide = console.width >= _WIDE
    main = next((version.main[0] for version in rows if version.main), "score")
    table = grid(header=True)
    table.add_column(header="version", header_style="dim", no_wrap=True)
    table.add_column(header="", no_wrap=True)
    table.add_column(header=main, header_style="dim", no_wrap=True)
    table.add_column(header="size", header_style="dim", no_wrap=True, justify="right")
    table.add_column(header="latency", header_style="dim", no_wrap=True, justify="right")
    if wide:
        table.add_column(header="digest", header_style="dim", style="dim", no_wrap=True)
    table.add_column(header="when (UTC)", header_style="dim", no_wrap=True)
    if wide:
        table.add_column(header="who", header_style="dim", overflow="fold")
        table.add_column(header="note", header_style="dim", overflow="fold")
    for version in rows:
        table.add_row(
            Text(str(version), style="bold"), Text(", ".join(version.aliases), style="green"),
            "" if version.main is None else _score(version, main), words.megabytes(version.size_bytes / 1e6),
            "" if version.latency_ms is None else f"{version.latency_ms:.2f} ms",
            *([version.digest[:12]] if wide else []), _when(version.at),
            *([words.safe(version.who), words.safe(version.note)] if wide else []),
        )  # fmt: skip
    if wide:
        return table
    # Beside the other columns a note would have a few characters a line.
    notes = [Text.assemble((f"{one}  ", "bold"), words.safe(one.note)) for one in rows if one.note]
    return Group(table, *([Text(), *notes] if notes else []))


def _score(version: Version, name: str) -> str:
    score = version.scores.get(name)
    return "" if score is None else f"{score.value:.4f} [{score.low:.3f}, {score.high:.3f}]"


def _told(move: Move) -> str:
    before = "" if move.before is None else f"  (was {move.before})"
    return f"{move.name}@{move.alias} = {move.after}{before}"


def _judged(evidence: Mapping[str, Any]) -> list[str]:
    """Return what a promotion was judged by, line by line."""
    if not evidence:
        return []
    lines = [f"gates: {', '.join(f'{name} {gate:g}' for name, gate in evidence['gates'].items()) or 'none'}"]
    found = evidence.get("difference")
    if found:
        lines.append(
            f"{evidence['score']} {found['value']:+.4f} beside {evidence['champion']} on the same "
            f"{words.counted(found['n'], 'test row')}, 95% interval {found['low']:+.4f} to {found['high']:+.4f}"
        )
    elif evidence.get("not_compared"):
        lines.append(f"not compared: {evidence['not_compared']}")
    return lines


def _entry(one: Entry) -> str:
    facts = one.facts
    if one.action == "register":
        return ", ".join(
            filter(None, [facts["digest"][:12], facts["parent"] and f"from {facts['parent']}", facts["note"]])
        )
    if one.action == "card":
        return ", ".join(f"{name}: {text}" for name, text in facts.items())
    if one.action in ("promote", "rollback"):
        overruled = "overruled" if facts.get("evidence", {}).get("refused") else ""
        before = "" if facts["before"] is None else f"{facts['before']} -> "
        return ", ".join(filter(None, [f"{before}{facts['after']}", overruled, facts["why"]]))
    if one.action.startswith("key-"):
        may = facts["key"]
        return ", ".join(filter(None, [
            facts["secret"], facts.get("ended") and f"ended {facts['ended']}",
            f"tenant {may['tenant']}", f"scopes {' '.join(may['scopes'])}",
            f"models {' '.join(may['models'])}", facts["why"],
        ]))  # fmt: skip
    if one.action.endswith(("-begin", "-end")):
        return ", ".join(filter(None, [f"beside {facts['beside']}", facts["state"], facts["why"]]))
    return ", ".join(f"{name}: {value}" for name, value in facts.items())


def _when(at: str) -> str:
    return at[:16].replace("T", " ")
