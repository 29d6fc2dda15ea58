"""What a build measured, drawn: PNG pictures of a report's figures."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from headrace_engines.report import Comparison, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INCHES: Final = (7.0, 4.2)
_DOTS_PER_INCH: Final = 110
_MOST_LAYERS: Final = 24
_FP32: Final = "fp32"
_KEPT: Final = "#1a7f5a"
_REFUSED: Final = "#b3402e"
_GREY: Final = "#8a8f98"


def draw(report: Report) -> dict[str, bytes]:
    """Return the PNG pictures that a report has figures for, by the names of their files."""
    pictures: dict[str, bytes] = {}
    judged = [compared for compared in report.comparisons if compared.quality]
    timed = [compared for compared in report.comparisons if compared.speeds]
    if any(compared.speeds for compared in judged):
        pictures["pareto.png"] = _picture(lambda axes: _pareto(axes, judged))
    if timed:
        pictures["latency.png"] = _picture(lambda axes: _latency(axes, timed))
    if report.comparisons:
        pictures["size.png"] = _picture(lambda axes: _sizes(axes, report.comparisons))
    for compared in report.comparisons:
        if compared.layers:
            pictures[f"layers.{compared.recipe}.png"] = _picture(partial(_layers, compared=compared))
    return pictures


def _picture(draw_on: Callable[[Axes], None]) -> bytes:
    # Without pyplot, which would look for a screen and keep every figure alive.
    from matplotlib.figure import Figure

    figure = Figure(figsize=_INCHES, dpi=_DOTS_PER_INCH, layout="constrained")
    axes = figure.add_subplot()
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    draw_on(axes)
    written = io.BytesIO()
    # The time of drawing and matplotlib's version would make other bytes of the same figures.
    figure.savefig(written, format="png", metadata={"Software": None})
    return written.getvalue()


def _pareto(axes: Axes, judged: list[Comparison]) -> None:
    """Draw what was lost against how much faster it is: up and to the right is better."""
    limits = {compared.quality.limit for compared in judged if compared.quality}
    for limit in limits:
        axes.axhline(-100 * limit, color=_REFUSED, linestyle="--", linewidth=1, label="accepted loss")
    axes.plot(1.0, 0.0, "D", color=_GREY, label=_FP32)
    for compared in judged:
        quality, ratio = compared.quality, compared.speed_ratio
        if quality is None or ratio is None:
            continue
        color = _KEPT if compared.passed else _REFUSED
        loss = -100 * quality.loss
        spread = [[100 * (quality.high - quality.loss)], [100 * (quality.loss - quality.low)]]
        axes.errorbar(ratio, loss, yerr=spread, fmt="o", color=color, capsize=3)
        axes.annotate(compared.recipe, (ratio, loss), xytext=(6, 5), textcoords="offset points")
    axes.set_xlabel("times as fast as FP32")
    axes.set_ylabel(f"gain in {_metric(judged)}, points")
    axes.set_title("Accuracy against speed (green: kept, red: refused)")
    axes.legend(loc="best", frameon=False)


def _metric(judged: list[Comparison]) -> str:
    names = sorted({compared.quality.metric for compared in judged if compared.quality})
    return " / ".join(names)


def _latency(axes: Axes, timed: list[Comparison]) -> None:
    """Draw what a batch takes against its rows, on axes on which twice is always the same step."""
    reference: dict[int, list[float]] = {}
    for compared in timed:
        for speed in compared.speeds:
            reference.setdefault(speed.rows, []).append(speed.reference_seconds)
        rows, seconds = zip(
            *((speed.rows, speed.candidate_seconds) for speed in compared.speeds), strict=True
        )
        line = "-" if compared.passed else ":"
        axes.plot(rows, [1e6 * taken for taken in seconds], f"o{line}", label=compared.recipe)
    # FP32 was measured beside each of them.
    middle = [sorted(taken)[len(taken) // 2] for taken in reference.values()]
    axes.plot(list(reference), [1e6 * taken for taken in middle], "D-", color=_GREY, label=_FP32)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(sorted(reference), [str(rows) for rows in sorted(reference)])
    for tell in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        tell("{x:g}")
    axes.set_xlabel("rows in a batch")
    axes.set_ylabel("µs a batch")
    axes.set_title("Latency against batch size (dotted: refused)")
    axes.legend(loc="best", frameon=False)


def _sizes(axes: Axes, comparisons: tuple[Comparison, ...]) -> None:
    sizes: dict[str, int] = {_FP32: comparisons[0].reference_bytes}
    sizes |= {compared.recipe: compared.candidate_bytes for compared in comparisons}
    colors = [_GREY, *(_KEPT if compared.passed else _REFUSED for compared in comparisons)]
    bars = axes.barh(list(sizes), [size / 2**20 for size in sizes.values()], color=colors)
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.invert_yaxis()
    axes.set_xlabel("MiB")
    axes.set_title("Size of the files")


def _layers(axes: Axes, compared: Comparison) -> None:
    """Draw the worst layers; those that stayed in FP32 are grey."""
    worst = compared.layers[:_MOST_LAYERS]
    colors = [_GREY if layer.kept else _KEPT for layer in worst]
    axes.barh(
        [f"{layer.name} ({layer.operator})" for layer in worst],
        [layer.sqnr_db for layer in worst],
        color=colors,
    )
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=7)
    axes.set_xlabel("signal to quantisation noise, dB: less is worse")
    axes.set_title(f"{compared.recipe}: error of its layers (grey: kept in FP32)")


def names(pictures: Mapping[str, Any]) -> list[str]:
    """Return the names of pictures in the order in which they are shown."""
    order = ("pareto.png", "latency.png", "size.png")
    return sorted(pictures, key=lambda name: (order.index(name) if name in order else len(order), name))
