"""Access keys as a table and as lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from luban.cli.show.results import grid, pairs

if TYPE_CHECKING:
    from rich.console import RenderableType

    from luban.serve.keys import Issued, Key


def issued(made: Issued) -> RenderableType:
    """Return a new secret, this once, and what its key may do."""
    from rich.console import Group
    from rich.text import Text

    key = made.key
    facts = {"key": key.name, **_may(key), "expires": _when(key.secrets[0].expires) or "never"}
    if older := key.live()[1:]:
        facts["the old one"] = f"{older[0].id} goes on until {_when(older[0].expires)} UTC"
    # The secret stands on a line of its own, so that it is copied whole.
    return Group(
        pairs(facts), Text(), Text(made.secret, style="bold green"),
        Text("It is shown this once. Callers send it as `Authorization: Bearer ...`.", style="yellow"),
    )  # fmt: skip


def revoked(key: Key, is_last: bool) -> RenderableType:
    """Return what has ended, and what is left."""
    from rich.text import Text

    if key.revoked:
        told = f" at {_when(key.revoked)} UTC: none of its secrets open"
        more = "\nno key is left: servers on this registry let nobody in until one is made" if is_last else ""
        return Text.assemble(("revoked ", "green"), key.name, told, (more, "yellow"))
    left = key.live()
    return Text.assemble(
        ("ended ", "green"), f"what {key.name} had beside its newest secret",
        f"; {left[0].id} goes on" if left else "; no secret is live",
    )  # fmt: skip


def table(found: Sequence[Key]) -> RenderableType:
    """Return every key as a table."""
    from rich.console import Group
    from rich.text import Text

    if not found:
        return Text("no key yet: `luban keys create --name NAME --scopes predict` makes one")
    may = grid(header=True)
    for column in ("key", "", "scopes", "models", "tenant", "rate"):
        may.add_column(header=column, header_style="dim", overflow="fold")
    # A line a secret: callers have changed over when the older one is not seen any more.
    secrets = grid(header=True)
    for column in ("key", "secret", "expires (UTC)", "last used (UTC)"):
        secrets.add_column(header=column, header_style="dim", no_wrap=column != "key")
    for key in found:
        live = key.live()
        state = "revoked" if key.revoked else "" if live else "expired"
        told = _may(key)
        may.add_row(
            Text(key.name, style="bold"), Text(state, style="yellow"), told["scopes"], told["models"], told["tenant"],
            told["rate"],
        )  # fmt: skip
        for one in live:
            secrets.add_row(key.name, one.id, _when(one.expires) or "never", _when(one.used) or "never")
    return Group(may, Text(), secrets) if secrets.row_count else may


def facts(found: Sequence[Key]) -> list[dict[str, Any]]:
    """Return every key as it is told to a program."""
    return [fact(key) for key in found]


def fact(key: Key) -> dict[str, Any]:
    """Return a key as it is told to a program: of secrets not even the hash."""
    told = {name: value for name, value in vars(key).items() if name != "secrets"}
    live = {one.id for one in key.live()}
    told["secrets"] = [
        {"id": one.id, "at": one.at, "expires": one.expires, "used": one.used, "live": one.id in live}
        for one in key.secrets
    ]
    return told


def _may(key: Key) -> dict[str, str]:
    return {
        "scopes": ", ".join(key.scopes), "models": "all" if key.models == ("*",) else ", ".join(key.models),
        "tenant": key.tenant,
        "rate": "no limit" if key.rate is None else f"{key.rate:g}/s, {key.burst} at once",
    }  # fmt: skip


def _when(at: str | None) -> str:
    return "" if at is None else at[:16].replace("T", " ")
