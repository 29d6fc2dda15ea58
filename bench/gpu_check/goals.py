"""What the figures say about what was to be reached, in a line each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from bench.gpu_check.record import Row
from bench.gpu_check.titles import ANSWERS, CORE, ENGINE, GRAPHS, SERVER

_SERVED: Final = 0.9
"""What the server is to answer, of what the engine does alone at its best batch."""
_HIDDEN: Final = 0.9
"""What the core is to answer, of what the engine does with two batches in flight."""
_BUSY_PERCENT: Final = 90.0


def summary(parts: Sequence[dict[str, Any]]) -> list[str]:
    """Return the machine, how many plans are right, and how each model stands to its goals."""
    facts = {name: value for part in parts for name, value in part["facts"].items()}
    rows: dict[str, list[Row]] = {
        title: [row for part in parts for row in part["tables"].get(title, ())]
        for title in (ANSWERS, ENGINE, CORE, SERVER, GRAPHS)
    }
    lines = [*_machine(facts), *_answers(parts, rows[ANSWERS]), *_precisions(rows[ENGINE])]
    for model in dict.fromkeys(row["model"] for row in rows[SERVER]):
        lines.extend(_served(str(model), rows))
    for model in dict.fromkeys(row["model"] for row in rows[CORE]):
        lines.extend(_assembled(str(model), rows))
    graphs = dict.fromkeys(row["model"] for row in rows[GRAPHS])
    lines += [_saved(str(model), [row for row in rows[GRAPHS] if row["model"] == model]) for model in graphs]
    return lines


def _machine(facts: dict[str, Any]) -> list[str]:
    if "gpus" not in facts:
        return ["GPU: not looked for"]
    if not facts["gpus"]:
        return [f"GPU: none: {facts.get('why none')}"]
    each = [f"{one['name']} ({one['architecture']}, {one['total_bytes'] >> 30} GiB)" for one in facts["gpus"]]
    return [f"GPU: {', '.join(each)}; {facts.get('library') or 'TensorRT is not installed'}"]


def _answers(parts: Sequence[dict[str, Any]], rows: Sequence[Row]) -> list[str]:
    judged = [part for part in parts if part["part"].startswith("answers ")]
    if not any(part["seconds"] or part["tables"] for part in judged):
        return ["plans: none was tried"]
    tried = [part["part"].partition(" ")[2] for part in judged]
    own = [row for row in rows if row["model"] in tried]
    wrong = list(dict.fromkeys(str(row["model"]) for row in own if not row["right"]))
    told = f"; WRONG: {', '.join(wrong)}" if wrong else ""
    right = len({row["model"] for row in own}) - len(wrong)
    lines = [f"plans: {right} of {len(tried)} load and answer as ONNX Runtime does{told}"]
    without = list(dict.fromkeys(str(row["model"]) for row in own if not _is_captured(row)))
    captured = len({row["model"] for row in own}) - len(without)
    told = f"; NOT, OR IN PART: {', '.join(without)}" if without else ""
    return [*lines, f"CUDA graphs: {captured} of {len(tried)} plans are captured in all batch sizes{told}"]


def _is_captured(row: Row) -> bool:
    captured, _, sizes = str(row["graphs"]).partition(" of ")
    return captured == sizes


def _saved(model: str, rows: Sequence[Row]) -> str:
    """Say how many sizes were captured, and what that saves where both were measured."""
    on, off = ({row["rows"]: row for row in rows if row["graphs"] == state} for state in ("on", "off"))
    captured = sum(bool(row["captured"]) for row in on.values())
    told = f"{model}: graphs of {captured} of {len(on)} batch sizes"
    both = [size for size in on if size in off]
    if not both:
        return told
    shares = [f"{float(on[size]['ms'] or 0) / float(off[size]['ms'] or 1):.2f} at {size}" for size in both]
    return f"{told}; the time of a batch with them, of that without: {', '.join(shares)}"


def _precisions(rows: Sequence[Row]) -> list[str]:
    """Say of each network what it does in each precision, in batches of which size."""
    best: dict[str, list[str]] = {}
    for model in dict.fromkeys(str(row["model"]) for row in rows):
        fastest = max((row for row in rows if row["model"] == model), key=_pace)
        network, _, recipe = model.partition("/")
        best.setdefault(network, []).append(f"{recipe or 'it'} {_pace(fastest):,.0f} ({fastest['rows']})")
    return [f"{network}, rows/s at the best batch: {', '.join(told)}" for network, told in best.items()]


def _served(model: str, rows: dict[str, list[Row]]) -> list[str]:
    best = max((row for row in rows[SERVER] if row["model"] == model), key=_rate)
    alone = max((_pace(row) for row in rows[ENGINE] if row["model"] == model), default=0.0)
    if not alone:
        return [f"{model}: the server answers {_rate(best):,.0f} rows/s; the engine was not measured alone"]
    share, busy = _rate(best) / alone, best["GPU busy %"]
    told = f"{model}: the server answers {_rate(best):,.0f} rows/s by {best['by']}"
    goal = _verdict(share >= _SERVED, f"{_SERVED:g}")
    lines = [f"{told}, {share:.2f} of the engine alone ({alone:,.0f}): {goal}"]
    if isinstance(busy, int | float):
        by = f"{best['NVML samples']} samples of NVML" if best["NVML samples"] else "CUDA's events"
        goal = _verdict(busy > _BUSY_PERCENT, "90 %")
        lines.append(f"{model}: the GPU is busy {busy:.0f} % of it, by {by}: {goal}")
    return lines


def _assembled(model: str, rows: dict[str, list[Row]]) -> list[str]:
    pairs = []
    for row in rows[CORE]:
        if row["model"] == model:
            same = [one for one in rows[ENGINE] if one["model"] == model and one["rows"] == row["batch"]]
            pairs += [(_rate(row) / max(_pace(one), 1.0), row["batch"]) for one in same]
    if not pairs:
        return []
    share, batch = max(pairs)
    told = f"{model}: the core keeps {share:.2f} of the engine's pace in batches of {batch}"
    return [f"{told}: {_verdict(share >= _HIDDEN, f'{_HIDDEN:g}')}"]


def _pace(row: Row) -> float:
    """Return what the engine does, with as many batches in flight as do it good."""
    return max(_rate(row), float(row["rows/s, 2 in flight"] or 0))


def _rate(row: Row) -> float:
    return float(row["rows/s"] or 0)


def _verdict(reached: bool, goal: str) -> str:
    return f"reached ({goal})" if reached else f"BELOW THE GOAL OF {goal}"
