"""Regions over real shared memory objects, whose owners do with them what they like."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shared_objects import SharedObject, shared_object

from headrace_server.errors import InvalidInput, NotSupported, Overloaded, RegionExists, RegionNotFound
from headrace_server.transport.regions import NO_REGIONS, Regions
from headrace_server.transport.shared_memory import SystemRegion
from headrace_server.transport.shared_region import Region

DATA = bytes(range(256))


@pytest.fixture
def shared() -> Iterator[SharedObject]:
    with shared_object(DATA) as made:
        yield made


@pytest.fixture
def regions() -> Regions:
    return Regions(allowed=True)


def registered(regions: Regions, shared: SharedObject, offset: int = 0, size_bytes: int = 256) -> Region:
    regions.register("r", shared.key, offset, size_bytes)
    return regions.find("r")


def test_bytes_are_read_from_the_regions_offset_on(regions: Regions, shared: SharedObject) -> None:
    region = registered(regions, shared, 100, 50)
    assert region.slice("x", 10, 5).read() == DATA[110:115]
    assert region.slice("x", 0, 50).read() == DATA[100:150]


def test_writing_changes_the_slice_and_nothing_beside_it(regions: Regions, shared: SharedObject) -> None:
    part = registered(regions, shared, 100, 50).slice("y", 10, 5)
    part.write(memoryview(b"abc"))
    assert shared.data == DATA[:110] + b"abc" + DATA[113:]
    with pytest.raises(InvalidInput, match="y: the answer takes 6 bytes, shared_memory_byte_size is 5"):
        part.write(memoryview(b"abcdef"))
    assert shared.data == DATA[:110] + b"abc" + DATA[113:]


def test_a_key_may_come_with_or_without_its_slash(regions: Regions, shared: SharedObject) -> None:
    regions.register("with", shared.key, 0, 256)
    regions.register("without", shared.key[1:], 0, 256)
    one, other = (regions.find(name).slice("x", 0, 256) for name in ("with", "without"))
    assert one.read() == other.read() == DATA
    assert one.overlaps(other)


@pytest.mark.parametrize(
    "key",
    [
        "", "/", ".", "..", "/..", "../etc/passwd", "/../etc/passwd", "/etc/passwd", "a/b", "//a", "a\0b",
        "/" + "a" * 256,
    ],
)  # fmt: skip
def test_a_key_that_leads_elsewhere_is_none(regions: Regions, key: str) -> None:
    with pytest.raises(InvalidInput, match="is no key of a shared memory object"):
        regions.register("r", key, 0, 1)


def test_an_object_that_is_not_there(regions: Regions) -> None:
    with pytest.raises(InvalidInput, match=r"cannot open .*'/headrace-none': No such file or directory"):
        regions.register("r", "/headrace-none", 0, 1)


def _link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.mkdir()


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


@pytest.mark.parametrize("make", [_link, _pipe, _folder, _socket])
def test_what_is_no_object_is_neither_followed_nor_waited_for(
    regions: Regions, shared: SharedObject, make: Callable[[Path], None]
) -> None:
    path = shared.path.with_name(shared.path.name + "-odd")
    make(path)
    try:
        with pytest.raises(InvalidInput, match=r"is no shared memory object|cannot open"):
            regions.register("r", path.name, 0, 1)
    finally:
        path.rmdir() if path.is_dir() else path.unlink()
    assert regions.status("", SystemRegion) == {}


@pytest.mark.parametrize("device", ["/dev/null", "/dev/zero"])
def test_a_device_is_not_reached_through_a_link(regions: Regions, shared: SharedObject, device: str) -> None:
    link = shared.path.with_name(shared.path.name + "-device")
    link.symlink_to(device)
    try:
        with pytest.raises(InvalidInput, match="Too many levels of symbolic links"):
            regions.register("r", link.name, 0, 1)
    finally:
        link.unlink()


@pytest.mark.parametrize(
    ("offset", "size_bytes", "text"),
    [
        (0, 257, "257 bytes from byte 0 on were asked for; .* has 256"),
        (256, 1, "has 256"),
        (1, 2**64 - 1, "has 256"),
        (2**64 - 1, 1, "has 256"),
        (2**64 - 1, 2**64 - 1, "has 256"),
        (0, 0, "byte_size is 0, at least 1 expected"),
    ],
)
def test_a_region_stays_within_its_object(
    regions: Regions, shared: SharedObject, offset: int, size_bytes: int, text: str
) -> None:
    with pytest.raises(InvalidInput, match=f"region 'r': .*{text}"):
        regions.register("r", shared.key, offset, size_bytes)


@pytest.mark.parametrize(
    ("offset", "size_bytes"),
    [
        (0, 51),
        (50, 1),
        (-1, 2),
        (0, 0),
        (0, -1),
        (2**63 - 1, 2**63 - 1),
        (2**63 - 1, 1),
        (-(2**63), 2**63 - 1),
    ],
)
def test_a_tensor_stays_within_its_region(
    regions: Regions, shared: SharedObject, offset: int, size_bytes: int
) -> None:
    region = registered(regions, shared, 100, 50)
    with pytest.raises(InvalidInput, match=r"input 'x': .* region 'r' has 50"):
        region.slice("input 'x'", offset, size_bytes)


def shrink(shared: SharedObject) -> None:
    shared.resize(255)


def empty(shared: SharedObject) -> None:
    shared.resize(0)


def vanish(shared: SharedObject) -> None:
    shared.remove()


def be_replaced(shared: SharedObject) -> None:
    shared.replace(bytes(512))


def become_a_link(shared: SharedObject) -> None:
    shared.remove()
    shared.path.symlink_to("/etc/passwd")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (shrink, "has shrunk: .* has 255 bytes, 256 are needed"),
        (empty, "has shrunk: .* has 0 bytes, 256 are needed"),
        (vanish, "No such file or directory"),
        (be_replaced, "is another one than shared memory region 'r' was registered with"),
        (become_a_link, "Too many levels of symbolic links"),
    ],
)
def test_an_object_that_changes_in_use_is_an_error_and_stays_as_its_owner_made_it(
    regions: Regions, shared: SharedObject, change: Callable[[SharedObject], None], text: str
) -> None:
    part = registered(regions, shared).slice("x", 6, 250)
    change(shared)
    left = shared.path.stat().st_size if shared.path.exists() else None
    with pytest.raises(InvalidInput, match=text):
        part.read()
    with pytest.raises(InvalidInput, match=text):
        part.write(memoryview(b"abc"))
    assert (shared.path.stat().st_size if shared.path.exists() else None) == left


def test_an_object_that_shrinks_between_looking_and_reading_is_an_error(
    regions: Regions, shared: SharedObject, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = registered(regions, shared).slice("x", 0, 256)
    read = os.pread

    def shrinks_first(descriptor: int, size: int, offset: int) -> bytes:
        shared.resize(16)
        return read(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", shrinks_first)
    with pytest.raises(InvalidInput, match="has 16 bytes, 256 are needed"):
        part.read()


def test_more_is_read_than_the_system_gives_at_a_time(
    regions: Regions, shared: SharedObject, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = registered(regions, shared).slice("x", 3, 250)
    read = os.pread
    monkeypatch.setattr(os, "pread", lambda descriptor, size, offset: read(descriptor, min(size, 7), offset))
    assert part.read() == DATA[3:253]


def test_a_region_unregistered_in_use_still_serves_whoever_has_it(
    regions: Regions, shared: SharedObject
) -> None:
    part = registered(regions, shared).slice("x", 0, 4)
    regions.unregister("r", SystemRegion)
    assert part.read() == DATA[:4]
    with pytest.raises(RegionNotFound, match="there is no shared memory region 'r'"):
        regions.find("r")


def test_names_are_unique_until_they_are_unregistered(regions: Regions, shared: SharedObject) -> None:
    regions.register("r", shared.key, 0, 1)
    with pytest.raises(RegionExists, match="'r' is registered already"):
        regions.register("r", shared.key, 1, 1)
    regions.unregister("r", SystemRegion)
    regions.unregister("r", SystemRegion)
    regions.register("r", shared.key, 1, 1)
    regions.register("s", shared.key, 1, 1)
    assert {name: region.offset for name, region in regions.status("", SystemRegion).items()} == {
        "r": 1,
        "s": 1,
    }
    assert list(regions.status("s", SystemRegion)) == ["s"]
    with pytest.raises(RegionNotFound):
        regions.status("none", SystemRegion)
    regions.unregister("", SystemRegion)
    assert regions.status("", SystemRegion) == {}


@pytest.mark.parametrize("name", ["", "n" * 256, "ü" * 128])
def test_a_regions_name_has_a_length(regions: Regions, shared: SharedObject, name: str) -> None:
    with pytest.raises(InvalidInput, match=r"1 to 255 expected"):
        regions.register(name, shared.key, 0, 1)


def test_invariant_4_regions_are_bounded(regions: Regions, shared: SharedObject) -> None:
    for number in range(4096):
        regions.register(str(number), shared.key, 0, 1)
    with pytest.raises(Overloaded, match="4096 shared memory regions are registered"):
        regions.register("more", shared.key, 0, 1)
    regions.unregister("7", SystemRegion)
    regions.register("more", shared.key, 0, 1)


def test_where_they_are_not_allowed_there_is_nothing(shared: SharedObject) -> None:
    refused = "start the server with --allow-client-shm"
    with pytest.raises(NotSupported, match=refused):
        NO_REGIONS.register("r", shared.key, 0, 1)
    with pytest.raises(NotSupported, match=refused):
        NO_REGIONS.unregister("", SystemRegion)
    with pytest.raises(NotSupported, match=refused):
        NO_REGIONS.find("r")
    assert NO_REGIONS.status("", SystemRegion) == {}


@given(
    begin=st.integers(0, 300), size_bytes=st.integers(0, 300),
    offset=st.integers(-5, 300), count=st.integers(-5, 300), left=st.integers(0, 300),
)  # fmt: skip
def test_any_ranges_of_an_object_of_any_size_are_read_as_they_are_or_refused(
    begin: int, size_bytes: int, offset: int, count: int, left: int
) -> None:
    regions = Regions(allowed=True)
    with shared_object(DATA) as shared, contextlib.suppress(InvalidInput):
        part = registered(regions, shared, begin, size_bytes).slice("x", offset, count)
        shared.resize(left)
        assert part.read() == (DATA + bytes(64))[begin + offset :][:count]
        assert begin + offset + count <= left
        part.write(memoryview(bytes(count)))
        assert shared.path.stat().st_size == left
