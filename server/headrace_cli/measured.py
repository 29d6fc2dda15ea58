"""What a build made and measured, as tables for people."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table
from rich.text import Text

from headrace_cli.console import human_size, table
from headrace_engines.gates import Accuracy
from headrace_engines.manifest import Artefact
from headrace_engines.report import Comparison


def artefact_table(artefacts: Iterable[Artefact]) -> Table:
    """Return a row for each artefact: its file, its size, and what its gates said."""
    return table(
        ("Artefact", "File", "Size ", "Target", "Gates"),
        [
            (made.recipe, made.file, human_size(made.size_bytes), made.target, _judgement(made))
            for made in artefacts
        ],
    )


def accuracy_table(comparisons: Iterable[Comparison]) -> Table:
    """Return a row for each artefact beside FP32: accuracy on held-out rows, with its interval, and size."""
    columns = (
        "Artefact", "Rows ", "FP32 ", "Quantised ", "Drop, points ", "95 % interval ", "Size ", "of FP32 ",
    )  # fmt: skip
    return table(columns, [_accuracy_row(compared) for compared in comparisons])


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


def interval(accuracy: Accuracy) -> str:
    """Return the confidence interval of the drop, in points."""
    return f"{100 * accuracy.low:+.2f} to {100 * accuracy.high:+.2f}"


def _accuracy_row(compared: Comparison) -> tuple[str, ...]:
    return (
        compared.recipe,
        str(compared.accuracy.rows),
        f"{compared.accuracy.reference:.4f}",
        f"{compared.accuracy.candidate:.4f}",
        f"{100 * compared.accuracy.drop:+.2f}",
        interval(compared.accuracy),
        human_size(compared.candidate_bytes),
        f"{compared.candidate_bytes / compared.reference_bytes:.2f}",
    )


def _judgement(artefact: Artefact) -> Text:
    return Text.assemble(("✓ ", "green") if artefact.passed else ("✗ ", "red"), artefact.reason)
