"""What a build made and measured, as tables for people."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from headrace_cli.console import human_size, table
from headrace_engines.gates import Quality
from headrace_engines.manifest import Manifest
from headrace_engines.report import Comparison, Report
from headrace_engines.standing import Standing


def artefact_table(known: Iterable[Standing]) -> Table:
    """Return a row for each artefact: its file, its size, and what its gates said."""
    return table(
        ("Artefact", "File", "Size ", "Target", "Gates"),
        [
            (
                one.artefact.recipe,
                one.artefact.file,
                human_size(one.artefact.size_bytes) if one.artefact.size_bytes else "",
                one.artefact.target,
                _judgement(one),
            )
            for one in known
        ],
    )


def quality_table(comparisons: Iterable[Comparison], *, names_outputs: bool = False) -> Table:
    """Return a row for each artefact beside FP32: its metric on held-out rows with its interval, its size.

    A loss of 0.01 is one point. `names_outputs` tells which of several outputs and their columns lost most.
    """
    columns = (
        "Artefact", "Metric", "Rows ", "FP32 ", "Artefact's ", "Loss, points ", "95 % interval ",
        "Size ", "of FP32 ", "Times faster ",
    )  # fmt: skip
    return table(columns, [_quality_row(compared, names_outputs) for compared in comparisons])


def speed_table(comparisons: Sequence[Comparison]) -> Table:
    """Return a row for each size of batch: how long each artefact takes, and how many times faster that is.

    Every artefact was measured beside FP32, whose time is the median of these.
    """
    sizes = sorted({speed.rows for compared in comparisons for speed in compared.speeds})
    columns = ("Batch ", "FP32 ", *(f"{compared.recipe} " for compared in comparisons))
    return table(columns, [_speed_row(rows, comparisons) for rows in sizes])


def show(out: Console, made: Manifest, report: Report) -> None:
    """Print what a build measured: quality, speed, and what whoever builds should know."""
    metric, rows = made.gates.get("metric", "quality"), made.gates.get("rows", 0)
    known = f"{metric} {report.reference:.4f}" if made.gates.get("judged", True) else "quality not judged"
    out.print(f"fp32: {known} on {rows} held-out rows", markup=False)
    if report.comparisons:
        names_outputs = "," in str(made.gates.get("outputs", ""))
        out.print(quality_table(report.comparisons, names_outputs=names_outputs))
    timed = [compared for compared in report.comparisons if compared.speeds]
    if timed:
        out.print(speed_table(timed))
    for compared in report.comparisons:
        kept = [layer.name for layer in compared.layers if layer.kept]
        if kept:
            out.print(f"{compared.recipe}: kept in FP32: {', '.join(kept)}", soft_wrap=True, markup=False)
        if not compared.passed:
            out.print(f"refused: {compared.verdict}", soft_wrap=True, markup=False)
    for warning in report.warnings:
        out.print(f"note: {warning}", soft_wrap=True, markup=False)


def _speed_row(rows: int, comparisons: Sequence[Comparison]) -> tuple[str, ...]:
    found = [next((s for s in compared.speeds if s.rows == rows), None) for compared in comparisons]
    reference = statistics.median(speed.reference_seconds for speed in found if speed)
    cells = (f"{_time(speed.candidate_seconds)}, {speed.ratio:.2f} x" if speed else "" for speed in found)
    return (str(rows), _time(reference), *cells)


def _time(seconds: float) -> str:
    return f"{1e6 * seconds:.0f} µs" if seconds < 0.1 else f"{1e3 * seconds:.0f} ms"


def _quality_row(compared: Comparison, names_outputs: bool) -> tuple[str, ...]:
    size = human_size(compared.candidate_bytes)
    share = f"{compared.candidate_bytes / compared.reference_bytes:.2f}"
    ratio = compared.speed_ratio
    faster = f"{ratio:.2f}" if ratio else "not measured"
    return (compared.recipe, *_figures(compared.quality, names_outputs), size, share, faster)


def _figures(quality: Quality | None, names_outputs: bool) -> tuple[str, ...]:
    if quality is None:
        return ("not judged", "", "", "", "", "")
    return (
        f"{quality.metric} of {quality.output}" if names_outputs else quality.metric,
        str(quality.rows),
        f"{quality.reference:.4f}",
        f"{quality.candidate:.4f}",
        f"{100 * quality.loss:+.2f}",
        f"{100 * quality.low:+.2f} to {100 * quality.high:+.2f}",
    )


def _judgement(known: Standing) -> Text:
    return Text.assemble(("✓ ", "green") if known.may_serve else ("✗ ", "red"), known.reason)
