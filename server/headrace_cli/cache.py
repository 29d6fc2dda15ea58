"""Where built artefacts are kept between builds."""

from __future__ import annotations

from pathlib import Path

import click


def _own_folder(_context: click.Context, _parameter: click.Parameter, caches: Path) -> Path:
    return caches.expanduser() / "headrace"


cache_option = click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    envvar="XDG_CACHE_HOME",
    default=Path("~/.cache"),
    callback=_own_folder,
    help="Folder of caches; what is built goes into `headrace` in it. [default: ~/.cache; XDG_CACHE_HOME]",
)
