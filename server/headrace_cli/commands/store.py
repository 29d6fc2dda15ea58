"""`headrace store`: what builds have left on this machine, to be used again."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from headrace_cli import console
from headrace_cli.cache import cache_option
from headrace_cli.failure import CommandError, failing

if TYPE_CHECKING:
    from headrace_engines.rebuilt_plans import StoredPlan
    from headrace_engines.store import Stored

_KEY_SIGNS: Final = 12
_DAY_SECONDS: Final = 86_400

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(name="store")
def command() -> None:
    """List, check or remove what builds have left on this machine.

    A build whose source, data, recipes and tools are all as before is taken from the store and takes no time.
    What servers serve is a copy of its own, in their repository, but for plans that they have rebuilt for
    the GPU of this machine.

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
    """List the builds and the rebuilt plans, what was used last first."""
    found = _stored(cache, verifying=False)
    if as_json:
        click.echo(json.dumps([single.document for single in found], indent=2))
        return
    _show(found)
    total = console.human_size(sum(single.size_bytes for single in found))
    console.results().print(f"{_counted(found)}, {total}, in {cache}", soft_wrap=True, markup=False)


@command.command()
@cache_option
@json_option
def verify(cache: Path, as_json: bool) -> None:
    """Read every artefact and compare it with its hash; exit 1 if one is damaged."""
    found = _stored(cache, verifying=True)
    damaged = [single for single in found if single.damage]
    if as_json:
        click.echo(json.dumps([single.document for single in found], indent=2))
    else:
        _show(damaged)
    if damaged:
        raise CommandError(
            f"{len(damaged)} of {_counted(found)} in {cache} are damaged: they are made again when they "
            "are wanted, and `headrace store prune` removes them"
        )
    if not as_json:
        console.results().print(f"{_counted(found)} in {cache} are whole", soft_wrap=True, markup=False)


@command.command()
@click.option(
    "--unused-days", type=click.FloatRange(0), default=30, show_default=True,
    help="Remove what no build or server has used for so long; 0 removes everything.",
)  # fmt: skip
@cache_option
def prune(unused_days: float, cache: Path) -> None:
    """Remove what is damaged, and what no build or server has used for long."""
    from headrace_engines import rebuilt_plans, store
    from headrace_engines.errors import FolderError

    def waiting() -> None:
        click.echo("waiting for a build to end", err=True)

    out = console.results()
    if not cache.is_dir():
        out.print(f"there is nothing in {cache}", soft_wrap=True, markup=False)
        return
    unused_since = time.time() - unused_days * _DAY_SECONDS
    with failing(FolderError):
        builds = store.prune(cache, unused_since, waiting)
        plans = rebuilt_plans.prune(cache / rebuilt_plans.FOLDER, unused_since, waiting)
    gone = [*map(_of_build, builds), *map(_of_plan, plans)]
    freed = console.human_size(sum(single.size_bytes for single in gone))
    out.print(f"removed {_counted(gone)}, {freed}, from {cache}", soft_wrap=True, markup=False)


@dataclass(frozen=True, slots=True)
class _Kept:
    """One build, or one plan that a server has rebuilt; `source` is "" where that cannot be read."""

    key: str
    folder: Path
    size_bytes: int
    used_at: float
    source: str
    artefacts: tuple[str, ...]
    damage: str
    is_plan: bool

    @property
    def day(self) -> str:
        return f"{datetime.fromtimestamp(self.used_at, UTC):%Y-%m-%d %H:%M} UTC"

    @property
    def document(self) -> dict[str, object]:
        return {
            "key": self.key,
            "kind": "plan" if self.is_plan else "build",
            "folder": str(self.folder),
            "size_bytes": self.size_bytes,
            "used_at": self.day,
            "source": self.source or None,
            "artefacts": list(self.artefacts),
            "damage": self.damage or None,
        }


def _stored(cache: Path, *, verifying: bool) -> list[_Kept]:
    from headrace_engines import rebuilt_plans, store

    builds = store.stored(cache, verifying=verifying)
    plans = rebuilt_plans.stored(cache / rebuilt_plans.FOLDER, verifying=verifying)
    return [*map(_of_build, builds), *map(_of_plan, plans)]


def _of_build(single: Stored) -> _Kept:
    described = single.manifest
    return _Kept(
        single.key,
        single.folder,
        single.size_bytes,
        single.used_at,
        described.source.name if described else "",
        tuple(made.recipe for made in described.artefacts if made.passed) if described else (),
        single.damage,
        is_plan=False,
    )


def _of_plan(single: StoredPlan) -> _Kept:
    plan = single.plan
    return _Kept(
        single.folder.name,
        single.folder,
        single.size_bytes,
        single.used_at,
        f"{plan.model} for {plan.gpu}" if plan else "",
        (plan.plan.file,) if plan else (),
        single.damage,
        is_plan=True,
    )


def _counted(found: Sequence[_Kept]) -> str:
    """Return how many builds these are, and how many plans if there are any."""
    plans = sum(single.is_plan for single in found)
    builds = f"{len(found) - plans} builds"
    return f"{builds} and {plans} rebuilt plans" if plans else builds


def _show(found: Iterable[_Kept]) -> None:
    rows = [
        (
            single.key[:_KEY_SIGNS],
            single.source,
            ", ".join(single.artefacts),
            console.human_size(single.size_bytes),
            single.day,
            single.damage,
        )
        for single in found
    ]
    if rows:
        console.results().print(
            console.table(("Key", "Source", "Artefacts", "Size ", "Last used", "Damage"), rows)
        )
