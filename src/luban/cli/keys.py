"""`luban keys`: who may call what is served."""

from __future__ import annotations

import click

from luban.cli import options
from luban.cli.show import Show

_ONLY = {
    "scopes": ("create",), "role": ("create",), "tenant": ("create",), "models": ("create",), "rate": ("create",),
    "burst": ("create",), "expires": ("create", "rotate"), "grace": ("rotate",), "older": ("revoke",),
    "why": ("create", "rotate", "revoke"),
}  # fmt: skip


@click.command("keys")
@click.argument("action", type=click.Choice(["create", "list", "rotate", "revoke"]))
@click.argument("name", required=False)
@click.option("--name", "named", help="Name of the key: its caller, e.g. shop.")
@click.option("--scopes", help="create: predict, feedback, read, admin; several with commas.")
@click.option("--role", type=click.Choice(["client", "viewer", "operator"]),
              help="create: scopes that go together: predict and feedback; read; all four.")  # fmt: skip
@click.option("--tenant", help="create: whose rows it sees and makes; `default` without it.")
@click.option("--models", help="create: models it may use, names or patterns as bank-*, with commas; all without it.")
@click.option("--expires", metavar="TIME", help="create, rotate: life of the secret, as 90d, or a day, as 2027-01-31.")
@click.option("--rate", help="create: requests that one server lets through, as 50/s or 600/min.")
@click.option("--burst", type=click.IntRange(min=1), help="create: requests that may come at once; those of a second.")
@click.option("--grace", metavar="TIME", help="rotate: how long the old secret goes on: 1d without it, or 0.")
@click.option("--older", is_flag=True, help="revoke: end the older secret alone.")
@click.option("--why", help="The reason, for the audit.")
@options.registry
@options.who
@options.output
@click.pass_context
def command(
    ctx: click.Context,
    show: Show,
    action: str,
    name: str | None,
    named: str | None,
    scopes: str | None,
    role: str | None,
    tenant: str | None,
    models: str | None,
    expires: str | None,
    rate: str | None,
    burst: int | None,
    grace: str | None,
    older: bool,
    why: str | None,
    registry: str | None,
    who: str | None,
) -> None:
    """Make, list, rotate or revoke the keys that callers of `luban serve` send.

    A secret is shown once, when it is made, and kept as a hash alone. After `rotate` the old one goes on for a day;
    what is revoked is refused within five seconds by every server on this registry. Every change is in the audit.
    """
    from luban.cli.show import keys as drawn
    from luban.stages import access

    given = {option for option in _ONLY if ctx.params[option] not in (None, False)}
    if wrong := sorted(option for option in given if action not in _ONLY[option]):
        ctx.fail(f"--{wrong[0]} goes with {' or '.join(f'`{one}`' for one in _ONLY[wrong[0]])}")
    if action == "list":
        if name or named:
            ctx.fail("`list` tells of every key: it takes no name")
        found = access.list_keys(registry)
        show.give("keys", {"keys": drawn.facts(found)}, lambda: drawn.table(found))
        return
    if name and named:
        ctx.fail("the name is given twice")
    whose = name or named
    if not whose:
        ctx.fail(f"name the key: luban keys {action} NAME")
    if action == "create":
        wanted = [*_listed(scopes), *([role] if role else [])]
        if not wanted:
            ctx.fail("say what it may do: --scopes predict,feedback or --role client")
        made = access.create_key(
            whose, wanted, tenant=tenant, models=_listed(models), expires=expires or "", rate=rate or "", burst=burst,
            registry=registry, who=who, why=why or "",
        )  # fmt: skip
        show.give("key", {**drawn.fact(made.key), "secret": made.secret}, lambda: drawn.issued(made))
    elif action == "rotate":
        made = access.rotate_key(
            whose, grace=grace or "", expires=expires or "", registry=registry, who=who, why=why or ""
        )
        show.give("key", {**drawn.fact(made.key), "secret": made.secret}, lambda: drawn.issued(made))
    else:
        key = access.revoke_key(whose, older=older, registry=registry, who=who, why=why or "")
        is_last = all(one.revoked for one in access.list_keys(registry))
        show.give("key", {**drawn.fact(key), "none_left": is_last}, lambda: drawn.revoked(key, is_last))


def _listed(text: str | None) -> list[str]:
    return [one.strip() for one in (text or "").split(",") if one.strip()]
