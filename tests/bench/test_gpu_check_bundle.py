"""What goes to a GPU machine without a network: which packages, and how the parts are put together there."""

from __future__ import annotations

import hashlib
import inspect
import io
import json
import lzma
import os
import platform
import re
import subprocess
import sys
import tarfile
from importlib import metadata
from pathlib import Path

import pytest
from digits import PACKAGES

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / "tools" / "gpu"
NEEDS = {
    "python": f"{sys.version_info[0]}.{sys.version_info[1]}",
    "machine": platform.machine(),
    "glibc": "2.17",
    "cuda": 13,
    "tensorrt_rtx": "1.2.3",
    "packages": ["numpy"],
}


def packed(**files):
    """Return an archive of text files as `pack.sh` makes them."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return lzma.compress(content.getvalue())


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    """Parts of which each has a piece of TensorRT, and the first has all else."""
    whole = packed(library="a library " * 50)
    sums = f"{hashlib.sha256(whole).hexdigest()}  tensorrt.tar.xz\n"
    for number, piece in enumerate((whole[:40], whole[40:90], whole[90:]), 1):
        part = tmp_path / ".gpu" / f"p{number}"
        part.mkdir(parents=True)
        (part / f"tensorrt.{number}").write_bytes(piece)
        (part / "tensorrt.sha256").write_text(sums)
        (part / "run.sh").write_bytes((TOOLS / "run.sh").read_bytes())
        (part / "needs.json").write_text(json.dumps(NEEDS))
    (tmp_path / ".gpu" / "p1" / "site.tar.xz").write_bytes(packed(package="a package"))
    (tmp_path / ".gpu" / "p1" / "cases.tar.xz").write_bytes(packed(nothing="no models"))
    monkeypatch.setenv("KEPT", str(tmp_path / "kept"))
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    return tmp_path / ".gpu"


def run(bundle, part, phase):
    command = ["bash", str(bundle / part / "run.sh"), phase]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_parts_that_come_one_after_the_other_are_put_together(bundle):
    (bundle / "p3").rename(bundle.parent / "later")
    first = run(bundle, "p1", "first")
    assert (first.returncode, "no models in" in first.stderr) == (2, True), first.stderr
    kept = bundle.parent / "kept"
    assert (kept / "site" / "package").read_text() == "a package"
    assert not (kept / "site" / "library").exists()

    for part in ("p1", "p2"):  # they do not travel again
        for file in (bundle / part).iterdir():
            file.unlink()
        (bundle / part).rmdir()
    (bundle.parent / "later").rename(bundle / "p3")
    second = run(bundle, "p3", "second")
    assert (second.returncode, "no models in" in second.stderr) == (2, True), second.stderr
    assert (kept / "site" / "library").read_text() == "a library " * 50
    assert run(bundle, "p3", "second").returncode == 2  # what is there is not unpacked again


def test_on_another_machine_the_second_part_says_what_to_do(bundle):
    done = run(bundle, "p3", "second")
    assert (done.returncode, "Run the first command again" in done.stderr) == (3, True)


def test_pieces_of_another_bundle_are_found(bundle):
    (bundle / "p2" / "tensorrt.2").write_bytes(bytes(50))
    assert run(bundle, "p1", "first").returncode == 2
    done = run(bundle, "p1", "second")
    assert done.returncode == 3
    assert "the pieces of TensorRT (tensorrt.1 tensorrt.2 tensorrt.3) do not make one whole" in done.stderr
    assert run(bundle, "p1", "third").returncode == 2


def test_it_is_said_first_what_was_found(bundle):
    done = run(bundle, "p1", "first")
    python, gpu, libraries, *_ = done.stderr.splitlines()
    assert python.startswith(f"gpu-check: Python {platform.python_version()} (")
    assert gpu.startswith("gpu-check: GPU: ")
    assert "the driver knows CUDA" in gpu
    assert f"numpy {metadata.version('numpy')}" in libraries
    assert libraries.endswith("carried: TensorRT for RTX 1.2.3")


@pytest.mark.parametrize(
    ("needs", "said"),
    [
        (
            {"python": "3.99"},
            r"is for Python 3\.99 \(cp399\), and this is 3\.\d+ \(cp3\d+\): name one .*python3\.99",
        ),
        ({"machine": "vax"}, r"is for vax, and this is \w+"),
        ({"glibc": "99.1"}, r"needs glibc 99\.1 or newer, and this is 2\.\d+"),
    ],
)
def test_packages_that_cannot_be_imported_are_not_unpacked(needs, said, bundle):
    (bundle / "p1" / "needs.json").write_text(json.dumps(NEEDS | needs))
    done = run(bundle, "p1", "first")
    assert done.returncode == 2
    *_, last = done.stderr.splitlines()
    assert re.search(said, last), done.stderr
    assert not (bundle.parent / "kept").exists()


def test_what_is_missing_and_not_carried_is_named(tmp_path):
    (tmp_path / "needs.json").write_text(json.dumps(NEEDS | {"packages": ["numpy", "another"]}))
    command = [
        sys.executable,
        "-S",
        str(TOOLS / "found.py"),
        str(tmp_path / "needs.json"),
    ]  # without packages
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "numpy and another must be installed for" in done.stderr.splitlines()[-1]


def test_another_interpreter_can_be_named_and_a_checkout_is_looked_for(bundle, monkeypatch):
    monkeypatch.setenv("PYTHON", "no-such-python")
    assert "there is no no-such-python here" in run(bundle, "p1", "first").stderr
    command = ["bash", str(bundle / "p1" / "run.sh"), "first"]
    elsewhere = subprocess.run(command, cwd=bundle, capture_output=True, text=True, timeout=60, check=False)
    assert (elsewhere.returncode, "is no checkout" in elsewhere.stderr) == (2, True)


def test_the_server_that_is_carried_has_the_grpcio_that_the_completion_queue_was_tried_with():
    command = [sys.executable, str(TOOLS / "requirements.py")]
    wanted = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert "grpcio==1.85.*" in wanted
    assert {one.partition(">")[0] for one in wanted} >= {"protobuf", "nvidia-ml-py", "prometheus-client"}
    assert not [one for one in wanted if one.startswith(("numpy", "tritonclient", "headrace"))]


def test_the_check_begins_where_onnx_is_not_installed(tmp_path):
    program = (
        "import sys; sys.modules['onnx'] = None\n"
        f"sys.path[:0] = {[str(ROOT), *PACKAGES]!r}\n"
        "from bench.gpu_check.__main__ import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, "--cases", str(tmp_path), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "no models in" in done.stderr) == (2, True), done.stderr


def test_what_is_compressed_is_said_and_the_same_every_time(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("some text")
    made = []
    for name in ("one.tar.xz", "two.tar.xz"):
        command = ["bash", str(TOOLS / "pack.sh"), str(tmp_path / "folder"), str(tmp_path / name), "-0"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        assert re.search(rf"compressing \d+ MiB into {name}", done.stderr)
        made.append((tmp_path / name).read_bytes())
    assert made[0] == made[1]
    assert lzma.decompress(made[0])


def test_what_is_called_of_cuda_python_is_there():
    cuda = pytest.importorskip("cuda.bindings.driver")
    assert list(inspect.signature(cuda.cuMemcpyHtoD).parameters) == ["dstDevice", "srcHost", "ByteCount"]
    assert list(inspect.signature(cuda.cuMemcpyDtoH).parameters) == ["dstHost", "srcDevice", "ByteCount"]
    assert list(inspect.signature(cuda.cuIpcGetMemHandle).parameters) == ["dptr"]
    assert cuda.CUipcMemHandle().getPtr()
