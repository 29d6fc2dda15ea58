"""What one batch costs in ONNX Runtime, by the way it is handed over.

    python bench/engine.py --models 100-50-10,784-1024-1024-10 --batches 1,8,32,64

One thread; microseconds a batch. The ways alternate within each round, each after a warm-up of its
own, since a session that another one has pushed out of the cache looks slower than it is; the table
shows medians over the rounds. The last column is the engine that serves, through its public methods.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from headrace_engines.runtime.onnxruntime import OnnxRuntimeEngine

_MAX_ROWS = 64


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--models", default="100-50-10,64-512-512-10,784-1024-1024-10", help="layer widths of MLPs"
    )
    parser.add_argument("--batches", default="1,8,32,64", help=f"rows in a batch, at most {_MAX_ROWS}")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--slice-seconds", type=float, default=0.01, help="time for one way in one round")
    options = parser.parse_args()
    heading = True
    for model in options.models.split(","):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            path.write_bytes(mlp([int(width) for width in model.split("-")]))
            for rows in map(int, options.batches.split(",")):
                medians = measure(ways(path, rows), options.rounds, options.slice_seconds)
                if heading:
                    print(f"{'model':18}{'rows':>5}" + "".join(f"{way:>14}" for way in medians))
                    heading = False
                print(
                    f"{model:18}{rows:5}" + "".join(f"{median:14.2f}" for median in medians.values()),
                    flush=True,
                )


def mlp(widths: Sequence[int]) -> bytes:
    """Return a multi-layer perceptron with random weights, from `x` to `y`."""
    random = np.random.default_rng(0)
    nodes, weights, current = [], [], "x"
    for layer, (wide_in, wide_out) in enumerate(pairwise(widths)):
        last = layer == len(widths) - 2
        scaled = random.standard_normal((wide_in, wide_out)) / wide_in**0.5
        weights.append(numpy_helper.from_array(scaled.astype(np.float32), f"w{layer}"))
        weights.append(numpy_helper.from_array(np.zeros(wide_out, np.float32), f"b{layer}"))
        nodes.append(
            helper.make_node("Gemm", [current, f"w{layer}", f"b{layer}"], ["y" if last else f"h{layer}"])
        )
        if not last:
            nodes.append(helper.make_node("Relu", [f"h{layer}"], [f"r{layer}"]))
            current = f"r{layer}"
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", widths[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", widths[-1]])],
        weights,
    )
    model: onnx.ModelProto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    return model.SerializeToString()


def ways(path: Path, rows: int) -> Mapping[str, Callable[[], object]]:
    """Return the ways of executing the first rows of a buffer, by name."""
    engine = OnnxRuntimeEngine(path, max_batch_size=_MAX_ROWS)
    x = engine.inputs(0)[0]
    x[:] = np.random.default_rng(1).random(x.shape)
    y = np.zeros((_MAX_ROWS, *engine.spec.outputs[0].dims), np.float32)
    plain = session(path)

    def run() -> object:
        return plain.run(["y"], {"x": x[:rows]})

    bound_input = binding(plain, x[:rows])

    def run_bound_input() -> object:
        plain.run_with_iobinding(bound_input)
        return bound_input.copy_outputs_to_cpu()

    def run_engine() -> object:
        engine.submit(0, rows)
        return engine.wait(0)

    return {
        "run": run,
        "input bound": run_bound_input,
        "both bound": bound(plain, x[:rows], y[:rows]),
        "no arena": bound(session(path, enable_cpu_mem_arena=False), x[:rows], y[:rows]),
        "no mem pattern": bound(session(path, enable_mem_pattern=False), x[:rows], y[:rows]),
        "flush denormal": bound(session(path, flush_denormals=True), x[:rows], y[:rows]),
        "engine": run_engine,
    }


def session(path: Path, *, flush_denormals: bool = False, **settings: bool) -> onnxruntime.InferenceSession:
    """Open the model with one thread and the settings given."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    for name, value in settings.items():
        setattr(options, name, value)
    if flush_denormals:
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def binding(
    opened: onnxruntime.InferenceSession, x: NDArray[Any], y: NDArray[Any] | None = None
) -> onnxruntime.IOBinding:
    """Bind the input to `x`, and the output to `y` or to memory that each run allocates."""
    made = opened.io_binding()
    made.bind_input("x", "cpu", 0, np.float32, x.shape, x.ctypes.data)
    if y is None:
        made.bind_output("y", "cpu")
    else:
        made.bind_output("y", "cpu", 0, np.float32, y.shape, y.ctypes.data)
    return made


def bound(opened: onnxruntime.InferenceSession, x: NDArray[Any], y: NDArray[Any]) -> Callable[[], object]:
    """Return the execution from `x` to `y`, both bound; it keeps them alive."""
    both = binding(opened, x, y)

    def execute() -> object:
        opened.run_with_iobinding(both)
        return x, y

    return execute


def measure(
    candidates: Mapping[str, Callable[[], object]], rounds: int, slice_seconds: float
) -> dict[str, float]:
    """Return the median microseconds of one call of each candidate, alternating."""
    repeats = {way: max(3, int(slice_seconds / seconds(call, 3))) for way, call in candidates.items()}
    samples: dict[str, list[float]] = {way: [] for way in candidates}
    for _ in range(rounds):
        for way, call in candidates.items():
            seconds(call, max(2, repeats[way] // 10))
            samples[way].append(seconds(call, repeats[way]) * 1e6)
    return {way: statistics.median(values) for way, values in samples.items()}


def seconds(call: Callable[[], object], times: int) -> float:
    """Return the mean seconds of one call."""
    start = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - start) / times


if __name__ == "__main__":
    main()
