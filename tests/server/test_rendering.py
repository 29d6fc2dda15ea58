"""What requests say beside their tensors: shared memory, classes, and everything that is wrong with it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_engines import Answers
from shared_objects import SharedObject, shared_object
from works import work_of

from headrace_engines.spec import ANY, ModelSpec, TensorSpec
from headrace_proto.v1 import inference_pb2 as pb
from headrace_server.core.model import Limits, Model
from headrace_server.core.request import InputTensor, Request
from headrace_server.errors import InvalidInput, RegionNotFound
from headrace_server.transport.regions import Regions
from headrace_server.transport.rendering import Classes, Rendering, input_slice, output_renderings

DATA = bytes(range(100))


@pytest.fixture
def shared() -> Iterator[SharedObject]:
    with shared_object(DATA) as made:
        yield made


@pytest.fixture
def regions(shared: SharedObject) -> Regions:
    """One object under two names, the second from its byte 50 on."""
    regions = Regions(allowed=True)
    regions.register("r", shared.key, 0, 100)
    regions.register("half", shared.key, 50, 50)
    return regions


def parameters(given: dict[str, Any]) -> dict[str, pb.InferParameter]:
    fields = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
    return {name: pb.InferParameter(**{fields[type(value)]: value}) for name, value in given.items()}


def output(name: str = "y", **given: Any) -> Any:
    names = {
        "region": "shared_memory_region",
        "offset": "shared_memory_offset",
        "size": "shared_memory_byte_size",
    }
    given = {names.get(key, key): value for key, value in given.items()}
    return pb.ModelInferRequest.InferRequestedOutputTensor(name=name, parameters=parameters(given))


def test_most_outputs_are_written_as_they_are(regions: Regions) -> None:
    assert output_renderings([output("a"), output("b", unknown=1)], regions) == {}


def test_outputs_go_to_memory_or_become_classes(regions: Regions) -> None:
    asked = output_renderings(
        [output("a", region="half", offset=10, size=5), output("b", classification=3), output("c")], regions
    )
    assert asked["b"] == Classes(3)
    part = asked["a"]
    assert not isinstance(part, Classes)
    assert (part.begin, part.size_bytes, part.tensor) == (60, 5, "output 'a'")
    assert list(asked) == ["a", "b"]


@pytest.mark.parametrize(
    ("outputs", "text"),
    [
        ([output(region="r")], "output 'y': shared_memory_region needs shared_memory_byte_size"),
        ([output(size=8)], "output 'y': shared_memory_offset and shared_memory_byte_size need"),
        ([output(offset=8)], "output 'y': shared_memory_offset and shared_memory_byte_size need"),
        ([output(region=1, size=8)], "'shared_memory_region' came as int64_param, string_param expected"),
        ([output(region="r", size="8")], "'shared_memory_byte_size' came as string_param, int64_param"),
        ([output(region="r", size=8, offset=0.0)], "'shared_memory_offset' came as double_param, int64"),
        ([output(classification="2")], "'classification' came as string_param, int64_param expected"),
        ([output(classification=True)], "'classification' came as bool_param, int64_param expected"),
        ([output(classification=0)], "classification of 0 came, 1 or more expected"),
        ([output(classification=-(2**63))], "1 or more expected"),
        ([output(classification=1, region="r", size=8)], "one of the two is expected"),
        ([output(region="r", size=101)], "region 'r' has 100"),
        ([output(region="r", size=8), output(region="r", size=9)], "asked for twice, in different forms"),
        ([output(classification=1), output(classification=2)], "asked for twice, in different forms"),
        (
            [output("a", region="r", size=60), output("b", region="half", size=10)],
            "output 'a' and output 'b' overlap in shared memory",
        ),
        (
            [output("a", region="r", size=9), output("b", region="r", offset=8, size=9)],
            "output 'a' and output 'b' overlap",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(regions: Regions, outputs: list[Any], text: str) -> None:
    with pytest.raises(InvalidInput, match=text):
        output_renderings(outputs, regions)


def test_a_region_that_nobody_registered(regions: Regions) -> None:
    with pytest.raises(RegionNotFound, match="'none'"):
        output_renderings([output(region="none", size=8)], regions)


def test_what_is_asked_for_twice_alike_is_done_once(regions: Regions) -> None:
    assert len(output_renderings([output(region="r", size=8)] * 2, regions)) == 1


@given(
    st.lists(st.tuples(st.sampled_from(["r", "half"]), st.integers(0, 49), st.integers(1, 30)), max_size=6)
)
def test_outputs_are_refused_when_any_two_share_a_byte(asked: list[tuple[str, int, int]]) -> None:
    begins = {"r": 0, "half": 50}
    bytes_of = [
        set(range(begins[region] + offset, begins[region] + offset + size)) for region, offset, size in asked
    ]
    fits = all(offset + size <= {"r": 100, "half": 50}[region] for region, offset, size in asked)
    apart = not any(one & other for one, other in itertools.combinations(bytes_of, 2))
    outputs = [
        output(f"y{n}", region=region, offset=offset, size=size)
        for n, (region, offset, size) in enumerate(asked)
    ]
    with shared_object(DATA) as shared:
        regions = Regions(allowed=True)
        regions.register("r", shared.key, 0, 100)
        regions.register("half", shared.key, 50, 50)
        if fits and apart:
            assert len(output_renderings(outputs, regions)) == len(asked)
        else:
            with pytest.raises(InvalidInput):
                output_renderings(outputs, regions)


def tensor(**given: Any) -> Any:
    return pb.ModelInferRequest.InferInputTensor(name="x", parameters=output(**given).parameters)


def test_inputs_stand_in_memory_or_in_the_message(regions: Regions) -> None:
    assert input_slice(tensor(), regions) is None
    assert input_slice(tensor(classification=0), regions) is None
    part = input_slice(tensor(region="half", size=8), regions)
    assert part is not None
    assert part.read() == DATA[50:58]
    both = tensor(region="half", size=8)
    both.contents.int64_contents.append(1)
    with pytest.raises(InvalidInput, match="input 'x' has contents and stands in shared memory"):
        input_slice(both, regions)


def test_fetching_fills_the_inputs_that_stand_in_memory(regions: Regions) -> None:
    one, other = (regions.find("r").slice(name, 10, 4) for name in ("a", "c"))
    rendering = Rendering({0: one, 2: other}, {})
    inputs = [InputTensor(name, "UINT8", (4,), b"came" * (name == "b")) for name in "abc"]
    fetched = rendering.fetch(Request("m", "", "", inputs))
    assert rendering.input_bytes == 8
    assert [one.data for one in fetched.inputs] == [DATA[10:14], b"came", DATA[10:14]]
    assert [one.data for one in inputs] == [b"", b"came", b""]


@pytest.mark.parametrize(
    ("dtype", "dims", "asked", "text"),
    [
        ("<f4", (3,), Classes(2), None),
        ("<f2", (3,), Classes(2), "is FP16: only integers, FP32 and FP64 can be classified"),
        ("?", (3,), Classes(2), "is BOOL: only"),
        ("O", (3,), Classes(2), "is BYTES: only"),
        ("<f4", (3,), 24, None),
        ("<f4", (3,), 23, "the answer takes 24 bytes, shared_memory_byte_size is 23"),
        ("<f4", (ANY,), 1, None),
        ("O", (3,), 1, None),
    ],
)
def test_what_an_output_cannot_become_is_known_beforehand(
    regions: Regions, dtype: str, dims: tuple[int, ...], asked: Any, text: str | None
) -> None:
    spec = ModelSpec((), (TensorSpec("z", np.dtype("<f4"), (1,)), TensorSpec("y", np.dtype(dtype), dims)), 8)
    model = Model("m", "1", spec, "scripted", Limits())
    work = work_of(model, Answers(), rows=2, wanted=(1,))
    if isinstance(asked, int):
        asked = regions.find("r").slice("output 'y'", 0, asked)
    rendering = Rendering({}, {"y": asked, "z": Classes(1)})
    if text is None:
        rendering.check(work)
    else:
        with pytest.raises(InvalidInput, match=text):
            rendering.check(work)
