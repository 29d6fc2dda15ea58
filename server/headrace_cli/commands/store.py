"""`headrace store`: what builds have left on this machine, to be used again."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from headrace_cli import console
from headrace_cli.cache import cache_option
from headrace_cli.failure import CommandError, failing

if TYPE_CHECKING:
    from headrace_engines.store import Stored

_KEY_SIGNS: Final = 12
_DAY_SECONDS: Final = 86_400

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(name="store")
def command() -> None:
    """List, check or remove what builds have left on this machine.

    A build whose source, data, recipes and tools are all as before is taken from the store and takes no time.
    What servers serve is a copy of its own, in their repository.

    \b
    Examples:
      headrace store list
      headrace store verify
      headrace store prune --unused-days 7
    """


@command.command(name="list")
@cache_option
@json_option
def list_(cache: Path, as_json: bool) -> None:
    """List the builds, what was used last first."""
    from headrace_engines import store

    found = store.stored(cache)
    if as_json:
        click.echo(json.dumps([_document(single) for single in found], indent=2))
        return
    _show(found)
    total = console.human_size(sum(single.size_bytes for single in found))
    console.results().print(f"{len(found)} builds, {total}, in {cache}", soft_wrap=True, markup=False)


@command.command()
@cache_option
@json_option
def verify(cache: Path, as_json: bool) -> None:
    """Read every artefact and compare it with its hash; exit 1 if one is damaged."""
    from headrace_engines import store

    found = store.stored(cache, verifying=True)
    damaged = [single for single in found if single.damage]
    if as_json:
        click.echo(json.dumps([_document(single) for single in found], indent=2))
    else:
        _show(damaged)
    if damaged:
        raise CommandError(
            f"{len(damaged)} of {len(found)} builds in {cache} are damaged: they are made again when they "
            "are wanted, and `headrace store prune` removes them"
        )
    if not as_json:
        console.results().print(f"{len(found)} builds in {cache} are whole", soft_wrap=True, markup=False)


@command.command()
@click.option(
    "--unused-days", type=click.FloatRange(0), default=30, show_default=True,
    help="Remove what no build has used for so long; 0 removes everything.",
)  # fmt: skip
@cache_option
def prune(unused_days: float, cache: Path) -> None:
    """Remove what is damaged, and what no build has used for long."""
    from headrace_engines import store
    from headrace_engines.errors import FolderError

    def waiting() -> None:
        click.echo("waiting for a build to end", err=True)

    out = console.results()
    if not cache.is_dir():
        out.print(f"there is nothing in {cache}", soft_wrap=True, markup=False)
        return
    with failing(FolderError):
        gone = store.prune(cache, time.time() - unused_days * _DAY_SECONDS, waiting)
    freed = console.human_size(sum(single.size_bytes for single in gone))
    out.print(f"removed {len(gone)} builds, {freed}, from {cache}", soft_wrap=True, markup=False)


def _show(found: Iterable[Stored]) -> None:
    rows = [
        (
            single.key[:_KEY_SIGNS],
            single.manifest.source.name if single.manifest else "",
            ", ".join(made.recipe for made in single.manifest.artefacts if made.passed)
            if single.manifest
            else "",
            console.human_size(single.size_bytes),
            _day(single),
            single.damage,
        )
        for single in found
    ]
    if rows:
        console.results().print(
            console.table(("Key", "Source", "Artefacts", "Size ", "Last used", "Damage"), rows)
        )


def _day(single: Stored) -> str:
    return f"{datetime.fromtimestamp(single.used_at, UTC):%Y-%m-%d %H:%M} UTC"


def _document(single: Stored) -> dict[str, object]:
    described = single.manifest
    return {
        "key": single.key,
        "folder": str(single.folder),
        "size_bytes": single.size_bytes,
        "used_at": _day(single),
        "source": described.source.name if described else None,
        "artefacts": [made.recipe for made in described.artefacts if made.passed] if described else [],
        "damage": single.damage or None,
    }
