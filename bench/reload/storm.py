"""One storm: a server, a load that never ceases, and operations on the models under it."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import grpc

from bench.reload.explicit import Explicit
from bench.reload.ledger import Ledger, Outcome
from bench.reload.load import Load
from bench.reload.polled import Polled
from bench.reload.scene import POLICIES, TARGETS, OperationError, Scene
from headrace_proto.v1.inference_pb2_grpc import InferenceServiceStub

EXPLICIT, POLL = "explicit", "poll"
_ROOT: Final = Path(__file__).parents[2]
_STOP_SECONDS: Final = 30.0
_CALM_SECONDS: Final = 0.3
"""Of load before the first operation and after the last one."""
_BETWEEN_SECONDS: Final = 0.1
"""Of load from one operation on a model to the next."""

_KINDS: Final[Mapping[str, type[Explicit] | type[Polled]]] = {EXPLICIT: Explicit, POLL: Polled}

Operation: TypeAlias = Callable[[str], Awaitable[None]]


class StormError(RuntimeError):
    """The server did not start, or did not end as it should."""


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a storm."""

    mode: str
    in_flight: int
    seconds: float
    operations: Mapping[str, int]
    calls: Mapping[str, int]
    """How many ended, by kind: "unary", "streamed"."""
    outcomes: Mapping[str, int]
    serving_seconds: Mapping[str, Sequence[float]]
    complaints: Sequence[str]

    @property
    def is_clean(self) -> bool:
        """Whether nothing was lost and nothing wrong."""
        return not self.outcomes[Outcome.LOST.value] and not self.outcomes[Outcome.WRONG.value]


def run(mode: str, operations: int, in_flight: int, poll_seconds: float, work: Path) -> Report:
    """Let a storm pass over a server of its own. Raises StormError."""
    return asyncio.run(_storm(mode, operations, in_flight, poll_seconds, work))


async def _storm(mode: str, operations: int, in_flight: int, poll_seconds: float, work: Path) -> Report:
    ledger = Ledger()
    scene = Scene(work / mode, ledger)
    flags = {
        EXPLICIT: [word for model in POLICIES for word in ("--load-model", model)],
        POLL: ["--repository-poll-secs", str(poll_seconds)],
    }
    arguments = ["--model-repository", str(scene.folder), "--model-control-mode", mode, *flags[mode]]
    with _server(work / f"{mode}.log", arguments) as address:
        begun = time.perf_counter()
        async with (
            grpc.aio.insecure_channel(address) as channel,
            Load(address, ledger, TARGETS, in_flight) as load,
        ):
            await asyncio.sleep(_CALM_SECONDS)
            cycle = _KINDS[mode](scene, InferenceServiceStub(channel)).cycle
            try:
                done = await _operate(cycle, operations)
            except (OperationError, grpc.RpcError) as error:
                raise StormError(
                    "\n".join([f"{type(error).__name__}: {error}", *ledger.complaints])
                ) from error
            await asyncio.sleep(_CALM_SECONDS)
        seconds = time.perf_counter() - begun
    return Report(
        mode,
        in_flight,
        seconds,
        dict(done),
        dict(load.calls),
        {outcome.value: ledger.outcomes[outcome] for outcome in Outcome},
        dict(scene.serving_seconds),
        ledger.complaints,
    )


async def _operate(cycle: Sequence[Operation], count: int) -> Counter[str]:
    """Do so many operations, in turn on each model and beside each other; return how often each was done."""
    done: Counter[str] = Counter()

    async def operate(model: str, share: int) -> None:
        for operation in itertools.islice(itertools.cycle(cycle), share):
            name = operation.__name__.replace("_", " ")
            try:
                await operation(model)
            except TimeoutError as error:
                raise OperationError(f"{name} on model {model}: the server has not acted on it") from error
            done[name] += 1
            await asyncio.sleep(_BETWEEN_SECONDS)

    shares = {model: len(range(place, count, len(POLICIES))) for place, model in enumerate(POLICIES)}
    await asyncio.gather(*(operate(model, share) for model, share in shares.items()))
    return done


@contextmanager
def _server(log: Path, arguments: Sequence[str]) -> Iterator[str]:
    """Run `headrace serve` and give its address; see that it stops with 0 and has logged no bug."""
    command = [
        str(Path(sys.executable).with_name("headrace")),
        "serve",
        "--grpc-port",
        "0",
        "--metrics-port",
        "0",
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, *arguments], cwd=_ROOT, stdout=subprocess.PIPE, stderr=output, start_new_session=True
        )
    try:
        line = process.stdout.readline() if process.stdout else b""
        if not line:
            raise StormError(f"the server did not start:\n{log.read_text(errors='replace')[-1000:]}")
        yield json.loads(line)["grpc"]
        process.terminate()
        code = process.wait(_STOP_SECONDS)
    finally:
        process.kill()
        process.wait()
    told = log.read_text(errors="replace")
    if code or "Traceback" in told:
        raise StormError(f"the server ended with {code}:\n{told[-2000:]}")
