"""What NVIDIA's libraries say of a failure, made one line with what to try."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

_HINTS: Final = (
    (r"[Zz]ero.?point", "quantise it symmetrically: the recipe int8-tensorrt does"),
    (r"type Int32 but must have type", "leave biases unquantised: the recipe int8-tensorrt does"),
    (r"does not know|[Uu]nsupported", "replace the operator, or build for the CPU alone: --target cpu"),
    (r"STRING|[Ss]tring", "texts are served on the CPU alone: --target cpu"),
    (r"[Oo]ut of memory|OutOfMemory|insufficient memory", "free GPU memory, or lower the largest batch size"),
    (r"FP8|Float8|E4M3", "FP8 needs a GPU of compute capability 8.9 or newer: leave out the recipe fp8"),
    (r"opset", "export the model with --opset 17"),
)
_UNKNOWN: Final = re.compile(r'.*"?Plugin not found.*')
_NOISE: Final = re.compile(
    r"^\[\w+\] "  # [E]
    r"|Invalid Node - \S+ |\w+::\w+: |Error Code \d+: |API Usage Error \("
    r"|Assertion failed: (?:[^ :]|::| \w| [&|=<>!])+: "
    r"|\(?In \w+ at /\S+\)?"  # the library's own source
    r"|Cuda Runtime \(.*insufficient for CUDA runtime version\)*"  # it looks for a GPU, and goes on without
)


@dataclass(frozen=True, slots=True)
class ParserComplaint:
    """One error of the ONNX parser, and the node that it is about."""

    node: str
    operator: str
    text: str


def parse_failure(complaints: Sequence[ParserComplaint]) -> str:
    """Return one line about the first node that the parser refused, and what to try."""
    if not complaints:
        return "TensorRT's parser refused the file and did not say why"
    first = complaints[0]
    node = f"node {first.node!r} ({first.operator})" if first.operator else "the graph"
    more = f", and {len(complaints) - 1} more" if len(complaints) > 1 else ""
    text = _plain(first.text)
    return f"TensorRT's parser refuses {node}{more}: {text}{_hint(f'{first.operator} {text}')}"


def build_failure(said: Iterable[str]) -> str:
    """Return one line about what the builder logged before it gave up, and what to try."""
    lines = [_plain(line) for line in said]
    text = lines[-1] if lines else "it did not say why"
    return f"TensorRT could not build a plan: {text}{_hint(' '.join(lines))}"


def _plain(text: str) -> str:
    """Return what was said without the library's own functions, files and codes."""
    line = _UNKNOWN.sub("TensorRT does not know this operator", " ".join(text.split()))
    return " ".join(_NOISE.sub("", line).split()).strip(" .") or "no reason was given"


def _hint(text: str) -> str:
    for pattern, hint in _HINTS:
        if re.search(pattern, text):
            return f"; {hint}"
    return ""
