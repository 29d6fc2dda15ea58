"""`report.html`: what a build made and measured, on one page that needs nothing beside it."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Final

from headrace_engines import charts, manifest, report
from headrace_engines.errors import ModelFileError
from headrace_engines.gates import Quality
from headrace_engines.manifest import Manifest, Recipe
from headrace_engines.report import Comparison, Report
from headrace_engines.spec import ANY, TensorSpec
from headrace_engines.standing import Standing, standings

FILE_NAME: Final = "report.html"

_STYLE: Final = """
:root { color-scheme: light; --line: #d8dbe0; --soft: #5c626d; --kept: #1a7f5a; --refused: #b3402e; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1c1f24; max-width: 70rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .6rem; text-align: left; vertical-align: top; }
th { font-weight: 600; } td.n, th.n { text-align: right; }
.scroll { overflow-x: auto; } .soft { color: var(--soft); }
.kept { color: var(--kept); } .refused { color: var(--refused); }
.warning { border-left: 4px solid var(--refused); padding: .4rem .8rem; background: #fbf2f0; }
figure { margin: 1rem 0; } img { max-width: 100%; height: auto; }
code { font-size: .92em; overflow-wrap: anywhere; }
"""
_ALT: Final = {
    "pareto.png": "Accuracy of each recipe against how many times faster than FP32 it is",
    "latency.png": "Microseconds a batch takes against the rows in it, for each recipe and FP32",
    "size.png": "Size of each file in MiB",
}
_ARTEFACTS: Final = ("Recipe", "Target", "File", "#Size, MiB", "Gates")

_Cell = str | tuple[str, str]
"""Text, or text with the class of its cell."""


def write_page(folder: Path) -> None:
    """Write the page of a version folder, and its pictures, from the manifest and the report in it.

    Raises ModelFileError if either is missing or damaged.
    """
    made, measured = manifest.read(folder), report.read(folder)
    if made is None or measured is None:
        raise ModelFileError(f"{manifest.FILE_NAME} or {report.FILE_NAME} is missing")
    pictures = charts.draw(measured)
    for name, picture in pictures.items():
        (folder / name).write_bytes(picture)
    (folder / FILE_NAME).write_text(render(made, measured, pictures), encoding="utf-8")


def render(made: Manifest, measured: Report, pictures: Mapping[str, bytes]) -> str:
    """Return the page; every text out of the files is escaped."""
    sections = [
        f"<h1>{_text(made.source.name)}</h1>",
        *(f'<p class="warning">{_text(warning)}</p>' for warning in measured.warnings),
        "<h2>Artefacts</h2>",
        _table(
            ("Recipe", "Target", "File", "#Size, MiB", "Gates"), map(_artefact, standings(made, measured))
        ),
        *_judged(measured.comparisons),
        *(_figure(name, pictures[name]) for name in charts.names(pictures)),
        *_timed(measured.comparisons),
        "<h2>Tensors</h2>",
        _table(
            ("", "Name", "Type", "Dims of a row"),
            [
                *(_tensor("input", tensor) for tensor in made.inputs),
                *(_tensor("output", tensor) for tensor in made.outputs),
            ],
        ),
        "<h2>How it was made</h2>",
        *map(_recipe, (made.source, *made.recipes)),
        _facts("Gates", {name: str(value) for name, value in made.gates.items()}),
        _facts("Data, SHA-256", made.data),
        _facts("Tools", made.tools),
        _facts("Machine", measured.machine),
        _facts("Seconds", {step: f"{seconds:.2f}" for step, seconds in measured.seconds.items()}),
    ]
    title = f"{_text(made.source.name)}: build report"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(section for section in sections if section)
        + "\n</body>\n</html>\n"
    )


def _judged(comparisons: Sequence[Comparison]) -> list[str]:
    judged = [compared for compared in comparisons if compared.quality]
    if not judged:
        return []
    columns = (
        "Recipe",
        "Metric",
        "#Rows",
        "#FP32",
        "#Recipe's",
        "#Loss, points",
        "#95 % interval",
        "Verdict",
    )
    return [
        "<h2>Accuracy beside FP32</h2>",
        _table(columns, [_quality(compared, compared.quality) for compared in judged if compared.quality]),
    ]


def _timed(comparisons: Sequence[Comparison]) -> list[str]:
    timed = [compared for compared in comparisons if compared.speeds]
    rows = [
        (
            compared.recipe,
            (str(speed.rows), "n"),
            (f"{1e6 * speed.reference_seconds:.1f}", "n"),
            (f"{1e6 * speed.candidate_seconds:.1f}", "n"),
            (f"{speed.ratio:.2f}", "n"),
        )
        for compared in timed
        for speed in compared.speeds
    ]
    columns = ("Recipe", "#Batch", "#FP32, µs", "#Recipe's, µs", "#Times faster")
    return ["<h2>Speed beside FP32</h2>", _table(columns, rows)] if rows else []


def _artefact(known: Standing) -> tuple[_Cell, ...]:
    made = known.artefact
    verdict = (f"✓ {known.reason}", "kept") if known.may_serve else (f"✗ {known.reason}", "refused")
    size = f"{made.size_bytes / 2**20:.2f}" if made.size_bytes else ""
    return (made.recipe, made.target, made.file, (size, "n"), verdict)


def _quality(compared: Comparison, quality: Quality) -> tuple[_Cell, ...]:
    return (
        compared.recipe,
        quality.metric,
        (str(quality.rows), "n"),
        (f"{quality.reference:.4f}", "n"),
        (f"{quality.candidate:.4f}", "n"),
        (f"{100 * quality.loss:+.2f}", "n"),
        (f"{100 * quality.low:+.2f} to {100 * quality.high:+.2f}", "n"),
        (compared.verdict, "kept" if compared.passed else "refused"),
    )


def _tensor(kind: str, tensor: TensorSpec) -> tuple[_Cell, ...]:
    dims = " × ".join("any" if dim == ANY else str(dim) for dim in tensor.dims) or "one value"
    return (kind, tensor.name, str(tensor.dtype), dims)


def _recipe(recipe: Recipe) -> str:
    return _facts(recipe.name, {name: str(value) for name, value in recipe.settings.items()})


def _facts(title: str, facts: Mapping[str, str]) -> str:
    if not facts:
        return ""
    return f"<h3>{_text(title)}</h3>" + _table(("", ""), [(name, value) for name, value in facts.items()])


def _figure(name: str, picture: bytes) -> str:
    encoded = base64.b64encode(picture).decode()
    alt = _ALT.get(name, f"Error of each layer of {name.removeprefix('layers.').removesuffix('.png')}")
    return f'<figure><img alt="{_text(alt)}" src="data:image/png;base64,{encoded}"></figure>'


def _table(columns: Sequence[str], rows: Iterable[Sequence[_Cell]]) -> str:
    """Return a table; columns whose title begins with # hold numbers."""
    heads = "".join(
        f'<th class="n">{_text(column[1:])}</th>' if column.startswith("#") else f"<th>{_text(column)}</th>"
        for column in columns
    )
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>\n" for row in rows)
    head = f"<thead><tr>{heads}</tr></thead>" if any(columns) else ""
    return f'<div class="scroll"><table>{head}<tbody>\n{body}</tbody></table></div>'


def _cell(cell: _Cell) -> str:
    text, kind = cell if isinstance(cell, tuple) else (cell, "")
    return f'<td class="{kind}">{_text(text)}</td>' if kind else f"<td>{_text(text)}</td>"


def _text(text: str) -> str:
    return escape(text.encode("utf-8", "backslashreplace").decode())
