"""What a build made and measured, as tables for people."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table
from rich.text import Text

from headrace_cli.console import human_size, table
from headrace_engines.gates import Quality
from headrace_engines.manifest import Artefact
from headrace_engines.report import Comparison


def artefact_table(artefacts: Iterable[Artefact]) -> Table:
    """Return a row for each artefact: its file, its size, and what its gates said."""
    return table(
        ("Artefact", "File", "Size ", "Target", "Gates"),
        [
            (
                made.recipe,
                made.file,
                human_size(made.size_bytes) if made.size_bytes else "",
                made.target,
                _judgement(made),
            )
            for made in artefacts
        ],
    )


def quality_table(comparisons: Iterable[Comparison]) -> Table:
    """Return a row for each artefact beside FP32: its metric on held-out rows with its interval, its size.

    A loss of 0.01 is one point.
    """
    columns = (
        "Artefact", "Metric", "Rows ", "FP32 ", "Artefact's ", "Loss, points ", "95 % interval ",
        "Size ", "of FP32 ", "Times faster ",
    )  # fmt: skip
    return table(columns, [_quality_row(compared) for compared in comparisons])


def speed_table(comparison: Comparison) -> Table:
    """Return a row for each size of batch: how long it takes, and how many times faster than FP32."""
    return table(
        ("Batch ", "FP32 ", f"{comparison.recipe} ", "Times faster "),
        [
            (
                str(speed.rows),
                f"{1e6 * speed.reference_seconds:.0f} µs",
                f"{1e6 * speed.candidate_seconds:.0f} µs",
                f"{speed.ratio:.2f}",
            )
            for speed in comparison.speeds
        ],
    )


def _quality_row(compared: Comparison) -> tuple[str, ...]:
    size = human_size(compared.candidate_bytes)
    share = f"{compared.candidate_bytes / compared.reference_bytes:.2f}"
    ratio = compared.speed_ratio
    faster = f"{ratio:.2f}" if ratio else "not measured"
    return (compared.recipe, *_figures(compared.quality), size, share, faster)


def _figures(quality: Quality | None) -> tuple[str, ...]:
    if quality is None:
        return ("no numbers", "", "", "", "", "")
    return (
        quality.metric,
        str(quality.rows),
        f"{quality.reference:.4f}",
        f"{quality.candidate:.4f}",
        f"{100 * quality.loss:+.2f}",
        f"{100 * quality.low:+.2f} to {100 * quality.high:+.2f}",
    )


def _judgement(artefact: Artefact) -> Text:
    return Text.assemble(("✓ ", "green") if artefact.passed else ("✗ ", "red"), artefact.reason)
