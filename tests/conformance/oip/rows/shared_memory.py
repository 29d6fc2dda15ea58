"""System shared memory: regions, tensors that pass through them, and everything that can be wrong with them.

The server must run on this machine. CUDA shared memory is told about as far as it goes without a GPU.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import numpy as np
from oip import differences
from oip.build import Given, Parameters, Value, data, infer, raw, tensors
from oip.case import Case, Check, Code, Earlier, Server, Step, act, ask, case, talk
from oip.wire import Outcome, Wire

from headrace_proto.v1 import inference_pb2 as pb

_OBJECT: Final = Path(f"/dev/shm/headrace_conformance_{os.getpid()}")
_KEY: Final = f"/{_OBJECT.name}"
_FLOATS: Final = np.arange(2048, dtype=np.float32)
_X: Final = raw("x", "FP32", [[1, 2, 3]])
_ALWAYS: Final = "Triton 2.51 always allows it"
_DONE: Final = Outcome([], Code.OK, "")
_STRINGS: Final = data("BYTES", [[b"a", b"", b"words"]])


def _create(_wire: Wire, _earlier: Earlier) -> Outcome:
    _OBJECT.write_bytes(_FLOATS.tobytes())
    return _DONE


def _remove(_wire: Wire, _earlier: Earlier) -> Outcome:
    _OBJECT.unlink(missing_ok=True)
    return _DONE


def _holds(offset: int, expected: bytes) -> Step:
    """Make the step of a look into the object."""

    def look(_wire: Wire, _earlier: Earlier) -> Outcome:
        assert _OBJECT.read_bytes()[offset : offset + len(expected)] == expected
        return _DONE

    return act(look)


def _register(
    name: str,
    size: int,
    code: Code = Code.OK,
    says: str = "",
    *,
    key: str = _KEY,
    offset: int = 0,
    **more: Any,
) -> Step:
    request = pb.SystemSharedMemoryRegisterRequest(name=name, key=key, offset=offset, byte_size=size)
    return ask("SystemSharedMemoryRegister", request, code, says, **more)


def _unregister(name: str = "") -> Step:
    return ask("SystemSharedMemoryUnregister", pb.SystemSharedMemoryUnregisterRequest(name=name))


def _status(name: str, code: Code = Code.OK, says: str = "", gives: Any = None) -> Step:
    return ask(
        "SystemSharedMemoryStatus", pb.SystemSharedMemoryStatusRequest(name=name), code, says, gives=gives
    )


def _regions(*names: str) -> Check:
    def check(outcome: Outcome, _earlier: Earlier) -> None:
        assert sorted(outcome.answer.regions) == sorted(names)

    return check


def _where(
    region: Value | None = "r", offset: Value | None = 0, size: Value | None = 12, **more: Value
) -> Parameters:
    named = {
        "shared_memory_region": region, "shared_memory_offset": offset, "shared_memory_byte_size": size,
    }  # fmt: skip
    return {key: value for key, value in named.items() if value is not None} | more


def _from(**where: Any) -> pb.ModelInferRequest:
    return infer("identity_FP32", Given("x", "FP32", (1, 3), None, None, _where(**where)))


def _into(**where: Any) -> pb.ModelInferRequest:
    return infer("identity_FP32", _X, outputs=(("y", _where(**where)),))


def _row(name: str, *steps: Step, server: Server = Server.OPEN) -> Case:
    """Make a row over an object of two pages."""
    return case(name, act(_create), *steps, server=server, undo=(_unregister(), act(_remove)))


def _reads(name: str, begin: int, **where: Any) -> Case:
    first = begin // 4
    answer = tensors(y=("FP32", [_FLOATS[first : first + 3]]))
    return _row(name, _register("r", 256), ask("ModelInfer", _from(**where), gives=answer))


def _refused(
    name: str, request: pb.ModelInferRequest, says: str = "", code: Code = Code.INVALID_ARGUMENT
) -> Case:
    return _row(
        name,
        _register("r", 256),
        ask("ModelInfer", request, code, says),
        ask("ModelInfer", infer("identity_FP32", _X), gives=tensors(y=("FP32", [[1, 2, 3]]))),
    )


def _unregistrable(name: str, size: int, says: str = "", **more: Any) -> Case:
    wrong = _register("r", size, Code.INVALID_ARGUMENT, says, **more)
    return _row(name, wrong, _status("", gives=_regions()))


def _empty_output(outcome: Outcome, _earlier: Earlier) -> None:
    (output,) = outcome.answer.outputs
    assert (output.datatype, list(output.shape)) == ("FP32", [1, 3])
    assert list(outcome.answer.raw_output_contents) == [b""]


def _second_in_raw_contents(outcome: Outcome, _earlier: Earlier) -> None:
    came = dict(
        zip((one.name for one in outcome.answer.outputs), outcome.answer.raw_output_contents, strict=True)
    )
    assert came == {"OUTPUT0": b"", "OUTPUT1": data("INT32", [2] * 16)}


def _write_strings(_wire: Wire, _earlier: Earlier) -> Outcome:
    with _OBJECT.open("r+b") as opened:
        opened.write(_STRINGS)
    return _DONE


def _with_more(**fields: Any) -> pb.ModelInferRequest:
    request = _from()
    if "typed" in fields:
        request.inputs[0].contents.fp32_contents.extend(fields["typed"])
    return request


def _both_ways() -> pb.ModelInferRequest:
    given = Given("x", "FP32", (1, 3), None, None, _where(offset=4))
    return infer("identity_FP32", given, outputs=(("y", _where(offset=128)),))


_ANSWER: Final = data("FP32", [[1, 2, 3]])
_CUDA: Final = pb.CudaSharedMemoryRegisterRequest(name="c", raw_handle=b"no handle", byte_size=4)

CASES: Final[list[Case]] = [
    _row("no region at first", _status("", gives=_regions())),
    _row("a region that nobody registered", _status("r", Code.NOT_FOUND, "'r'")),
    _row(
        "a region is told of",
        _register("r", 128, offset=4096),
        _status(
            "r",
            gives=pb.SystemSharedMemoryStatusResponse(
                regions={
                    "r": pb.SystemSharedMemoryStatusResponse.RegionStatus(
                        name="r", key=_KEY, offset=4096, byte_size=128
                    )
                }
            ),
        ),
    ),
    _row(
        "a region is forgotten",
        _register("r", 256),
        _unregister("r"),
        _status("", gives=_regions()),
        _register("r", 128),
    ),
    _row("all regions are forgotten", _register("r", 256), _unregister(), _status("", gives=_regions())),
    _row("forgetting a region that nobody registered", _unregister("r")),
    _row("a key without its slash", _register("r", 256, key=_OBJECT.name), _status("r", gives=_regions("r"))),
    _row(
        "a name that is taken",
        _register("r", 256),
        _register("r", 128, Code.ALREADY_EXISTS, "'r'"),
        _status("r", gives=_regions("r")),
    ),
    _unregistrable("a region of no bytes", 0, "byte_size"),
    _unregistrable("a region that is longer than its object", 8193, "8192"),
    _unregistrable("a region that begins behind its object", 1, offset=8192),
    _unregistrable("a region whose end overflows", 2, offset=2**64 - 1),
    _unregistrable("the largest region of 64 bits", 2**64 - 1),
    _unregistrable(
        "an object that is not there", 1, key="/headrace_conformance_none", differs=differences.REGION_WRONG
    ),
    _unregistrable(
        "a key that leads elsewhere", 1, key="/../../etc/hostname", differs=differences.REGION_WRONG
    ),
    _unregistrable("a key that is a folder", 1, key="/.", differs=differences.REGION_WRONG),
    _unregistrable("no key", 1, key="", differs=differences.REGION_WRONG),
    _reads("an input from the beginning", 0),
    _reads("an input from further on", 4, offset=4),
    _reads("an input without an offset", 0, offset=None),
    _reads("an input from the end", 244, offset=244),
    _row(
        "an output",
        _register("r", 256),
        ask("ModelInfer", _into(offset=16), gives=_empty_output),
        _holds(12, _FLOATS[3:4].tobytes() + _ANSWER + _FLOATS[7:8].tobytes()),
    ),
    _row(
        "an output with room to spare",
        _register("r", 256),
        ask("ModelInfer", _into(offset=16, size=20), gives=_empty_output),
        _holds(16, _ANSWER + _FLOATS[7:9].tobytes()),
    ),
    _row(
        "an input and an output",
        _register("r", 256),
        ask("ModelInfer", _both_ways(), gives=_empty_output),
        _holds(128, _FLOATS[1:4].tobytes()),
    ),
    _row(
        "an output of a stream",
        _register("r", 256),
        talk(_into(offset=32)),
        _holds(32, _ANSWER),
    ),
    _row(
        "an input beside one in raw contents",
        _register("r", 256),
        ask(
            "ModelInfer",
            infer(
                "simple",
                Given("INPUT0", "INT32", (1, 16), None, None, _where(size=64)),
                raw("INPUT1", "INT32", [[0] * 16]),
                outputs=("OUTPUT0",),
            ),
            gives=tensors(OUTPUT0=("INT32", _FLOATS[:16].view(np.int32).reshape(1, 16))),
        ),
    ),
    _row(
        "an output beside one in raw contents",
        _register("r", 256),
        ask(
            "ModelInfer",
            infer(
                "simple",
                raw("INPUT0", "INT32", [[3] * 16]),
                raw("INPUT1", "INT32", [[1] * 16]),
                outputs=(("OUTPUT0", _where(size=64)), "OUTPUT1"),
            ),
            gives=_second_in_raw_contents,
        ),
        _holds(0, data("INT32", [4] * 16)),
    ),
    _row(
        "strings through a region",
        act(_write_strings),
        _register("r", 256),
        ask(
            "ModelInfer",
            infer(
                "identity_BYTES",
                Given("x", "BYTES", (1, 3), None, None, _where(size=len(_STRINGS))),
                outputs=(("y", _where(offset=100, size=100)),),
            ),
        ),
        _holds(100, _STRINGS),
    ),
    _row(
        "raw contents beside a region are nobody's",
        _register("r", 256),
        ask(
            "ModelInfer",
            infer("identity_FP32", Given("x", "FP32", (1, 3), bytes(12), None, _where())),
            gives=tensors(y=("FP32", [[0, 1, 2]])),
        ),
    ),
    _refused("no size", _from(size=None), "shared_memory_byte_size"),
    _refused("a size of 0", _from(size=0)),
    _refused("a size that does not fit the shape", _from(size=8), "8 bytes came.*needs 12"),
    _refused("a tensor behind the region's end", _from(offset=250), "256"),
    _refused("a negative offset", _from(offset=-4)),
    _refused("a negative size", _from(size=-4)),
    _refused("an offset that overflows", _from(offset=2**63 - 1, size=2**63 - 1)),
    _refused("a region that nobody registered, for an input", _from(region="none"), "none", Code.NOT_FOUND),
    _refused("an offset that is a text", _from(offset="0"), "shared_memory_offset"),
    _refused("a region that is a number", _from(region=5), "shared_memory_region"),
    _refused("a size that is a text", _from(size="12"), "shared_memory_byte_size"),
    _refused("an offset without a region", _from(region=None)),
    _refused("a region and typed contents", _with_more(typed=[1, 2, 3]), "input 'x'"),
    _refused("a region that nobody registered, for an output", _into(region="none"), "none", Code.NOT_FOUND),
    _refused("no size for an output", _into(size=None), "shared_memory_byte_size"),
    _refused("an output behind the region's end", _into(offset=250), "256"),
    _row(
        "an output that does not fit",
        _register("r", 256),
        ask(
            "ModelInfer",
            _into(size=8),
            Code.INVALID_ARGUMENT,
            "output 'y'",
            differs=differences.OUTPUT_TOO_LARGE,
        ),
        _holds(0, _FLOATS[:3].tobytes()),
    ),
    _refused("an output as classes", _into(classification=1), "classification"),
    _row(
        "a region that is forgotten is not used",
        _register("r", 256),
        _unregister("r"),
        ask("ModelInfer", _from(), Code.NOT_FOUND, "'r'"),
    ),
    case(
        "shared memory is not allowed unless the server is told so",
        act(_create),
        _register("r", 256, Code.UNIMPLEMENTED, "--allow-client-shm", differs=differences.SHARED_MEMORY_OFF),
        server=Server.CLOSED,
        only_ours=_ALWAYS,
        undo=(act(_remove),),
    ),
    case(
        "an input by shared memory that is not allowed",
        ask(
            "ModelInfer",
            infer(
                "simple",
                Given("INPUT0", "INT32", (1, 16), None, None, _where(size=64)),
                raw("INPUT1", "INT32", [[0] * 16]),
            ),
            Code.UNIMPLEMENTED,
            "--allow-client-shm",
            differs=differences.SHARED_MEMORY_OFF,
        ),
        server=Server.CLOSED,
        only_ours=_ALWAYS,
    ),
    case(
        "registering what is no CUDA shared memory",
        ask("CudaSharedMemoryRegister", _CUDA, Code.INVALID_ARGUMENT, "region 'c'"),
        ask("CudaSharedMemoryStatus", b"", gives=_regions()),
    ),
    case("no CUDA region at first", ask("CudaSharedMemoryStatus", b"", gives=_regions())),
    case(
        "a CUDA region that nobody registered",
        ask("CudaSharedMemoryStatus", pb.CudaSharedMemoryStatusRequest(name="r"), Code.NOT_FOUND, "'r'"),
    ),
    *(
        case(
            f"forgetting {what}",
            ask("CudaSharedMemoryUnregister", pb.CudaSharedMemoryUnregisterRequest(name=name)),
        )
        for what, name in (("all CUDA regions", ""), ("a CUDA region that nobody registered", "r"))
    ),
]
