"""Sessions with real processes: the importer here opens pickles, as those of pickling frameworks do."""

from __future__ import annotations

import importlib.util
import logging
import os
import pickle
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from headrace_engines import folders
from headrace_engines.errors import (
    EngineError,
    FolderError,
    ModelFileError,
    UnsupportedModelError,
    UntrustedSource,
)
from headrace_engines.importers import sandbox
from headrace_engines.importers.formats import Format, Kind, detect
from headrace_engines.importers.importer import ImportOptions
from headrace_engines.importers.limits import Limits
from headrace_engines.importers.session import ImportSession, import_session
from headrace_engines.runtime.onnxruntime import OnnxRuntimeEngine

_IMPORTER = """
import os, pickle
from headrace_engines import errors

class Opened:
    def __init__(self, path, options):
        self.facts = {"found": str(pickle.loads(path.read_bytes())), "process": os.getpid(),
                      "trusted": options.is_trusted, "shapes": str(options.input_shapes)}
    def convert(self, path):
        from onnx import TensorProto, helper
        x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in "xy")
        graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "net", [x], [y])
        path.write_bytes(helper.make_model(graph).SerializeToString())
    def answers(self, rows):
        if "refused" in rows:
            raise errors.ExecutionError("these rows are refused")
        return tuple(rows.values())

def open_source(path, options):
    return Opened(path, options)
"""
_FORMAT = Format(Kind.SCIKIT_LEARN, "pickle", "pickling_importer", True, "build", ())
_OPTIONS = ImportOptions()

Sessions = Callable[..., Any]


class _Code:
    """Pickles to code that is executed where it is opened."""

    def __init__(self, code: str) -> None:
        self._code = code

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (self._code,)


@pytest.fixture
def opening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sessions:
    """A function that opens a session on a pickle that executes this code."""
    (tmp_path / "pickling_importer.py").write_text(_IMPORTER)
    monkeypatch.chdir(tmp_path)

    def opens(
        code: str,
        *,
        is_trusted: bool = True,
        options: ImportOptions = _OPTIONS,
        within: Path | None = None,
    ) -> Any:
        (tmp_path / "model.pkl").write_bytes(pickle.dumps(_Code(code)))
        return import_session(tmp_path / "model.pkl", _FORMAT, options, is_trusted=is_trusted, within=within)

    return opens


def _refusal(session: Any) -> EngineError:
    with pytest.raises(EngineError) as refused, session:
        pass
    return refused.value


def test_what_can_execute_code_is_not_opened_untold(opening: Sessions, tmp_path: Path) -> None:
    refused = _refusal(opening("open('executed', 'w')", is_trusted=False))
    assert type(refused) is UntrustedSource
    assert str(refused) == (
        "model.pkl (pickle): opening it can execute whatever its author put in it; allow that with --trust "
        "if you know where it comes from (skops.io.dump writes a file that needs no trust)"
    )
    assert not (tmp_path / "executed").exists()


def test_one_process_opens_converts_and_answers(opening: Sessions, tmp_path: Path) -> None:
    options = ImportOptions(input_shapes={"x": (3, 4)})
    rows = {
        "floats": np.arange(6, dtype=np.float32).reshape(2, 3),
        "halves": np.ones((2, 1), ml_dtypes.bfloat16),
        "texts": np.array([["a", b"\xc3\xa9"], ["", "longer"]], object),
        "none": np.zeros((0, 3), np.int8),
    }
    with opening("40 + 2", options=options) as session:
        assert session.facts["found"] == "42"
        assert session.facts["trusted"] is True
        assert session.facts["shapes"] == "{'x': (3, 4)}"
        assert session.facts["process"] != os.getpid()
        session.convert(tmp_path / "model.onnx")
        answers = session.answers(rows)
        again = session.answers({"floats": rows["floats"]})
    (converted,) = OnnxRuntimeEngine(tmp_path / "model.onnx").run([-rows["floats"]])
    np.testing.assert_array_equal(converted, np.zeros((2, 3), np.float32))
    assert [answer.dtype for answer in answers] == [array.dtype for array in rows.values()]
    np.testing.assert_array_equal(answers[0], rows["floats"])
    np.testing.assert_array_equal(answers[1], rows["halves"])
    assert answers[2].tolist() == [["a", "é"], ["", "longer"]]
    assert answers[3].shape == (0, 3)
    np.testing.assert_array_equal(again[0], rows["floats"])
    assert not Path(f"/proc/{session.facts['process']}").exists()


def test_rows_are_where_they_are_swept_if_the_caller_is_killed(opening: Sessions, tmp_path: Path) -> None:
    rows = {"x": np.ones((2, 3), np.float32)}
    with folders.locked(tmp_path / "store"), opening("0", within=tmp_path / "store") as session:
        session.answers(rows)
        (private,) = (tmp_path / "store").iterdir()
        assert {"rows.npz", "answers.npz"} < {file.name for file in private.iterdir()}
        assert private.stat().st_mode & 0o777 == 0o700
        private.rename(tmp_path / "store" / f"{private.name}-left")
    with folders.locked(tmp_path / "store"):
        assert not list((tmp_path / "store").iterdir())


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="the system tells nobody of a process that ends")
@pytest.mark.parametrize("reason", [ValueError("left"), KeyboardInterrupt()])
def test_the_process_and_what_it_started_end_with_the_block(opening: Sessions, reason: BaseException) -> None:
    code = "str(__import__('subprocess').Popen(['sleep', '60']).pid)"

    def leave(session: ImportSession) -> None:
        seen.extend((int(str(session.facts["process"])), int(str(session.facts["found"]))))
        raise reason

    seen: list[int] = []
    with pytest.raises(type(reason)), opening(code) as session:
        leave(session)
    child, started = seen
    assert not Path(f"/proc/{child}").exists()
    assert _ends(started)


def _ends(process: int) -> bool:
    """Wait until a process has ended that nobody here is the parent of."""
    try:
        descriptor = os.pidfd_open(process)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], 10)[0])
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("leave", ["setsid", "setpgrp"])
def test_what_a_pickle_starts_cannot_leave_its_group(opening: Sessions, leave: str) -> None:
    refused = _refusal(opening(f"__import__('os').{leave}()"))
    assert "PermissionError" in str(refused)


_WAITING = """
from pathlib import Path
from headrace_engines.importers.formats import Format, Kind
from headrace_engines.importers.importer import ImportOptions
from headrace_engines.importers.session import import_session
found = Format(Kind.SCIKIT_LEARN, "pickle", "pickling_importer", True, "build", ())
with import_session(Path("model.pkl"), found, ImportOptions(), is_trusted=True) as session:
    print(session.facts["process"], flush=True)
    input()
"""


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="the system tells nobody of a process that ends")
def test_the_process_ends_with_a_caller_that_is_killed(opening: Sessions, tmp_path: Path) -> None:
    opening("1")
    caller = subprocess.Popen(
        [sys.executable, "-c", _WAITING],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(sandbox.__file__).parents[2]), "TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with caller:
        assert caller.stdout is not None
        process = os.pidfd_open(int(caller.stdout.readline()))
        try:
            caller.kill()
            assert select.select([process], [], [], 60)[0]
        finally:
            os.close(process)


def test_what_the_source_prints_is_no_answer(opening: Sessions) -> None:
    with opening("print('{\"facts\": {}}', flush=True)") as session:
        assert session.facts["found"] == "None"
    with opening("__import__('os').write(1, b'nonsense') and input") as session:
        assert session.facts["found"].startswith("<built-in")


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("__import__('os')._exit(3)", "it left with exit code 3"),
        ("__import__('os').abort()", "it crashed with SIGABRT"),
        (
            "__import__('os').kill(__import__('os').getpid(), 9)",
            "it was killed, as the system does where memory runs out",
        ),
        (
            "__import__('sys').exit('too old')",
            "it left with exit code 1; the last that it wrote: too old",
        ),
    ],
)
def test_a_process_that_dies_is_told(opening: Sessions, code: str, told: str) -> None:
    refused = _refusal(opening(code))
    assert type(refused) is ModelFileError
    assert str(refused) == f"model.pkl: opening it ended its process: {told}"


def test_a_full_disk_is_not_the_sources_fault(opening: Sessions) -> None:
    code = (
        'exec(\'import sys; sys.stderr = open("/dev/full", "w", 1); '
        'open("/dev/full", "w", 1).write(chr(10))\')'
    )
    refused = _refusal(opening(code))
    assert type(refused) is FolderError
    assert " cannot be written: no space left on device: the file system at /" in str(refused)


def test_a_log_that_cannot_be_written_costs_no_answer(opening: Sessions) -> None:
    code = 'exec(\'import sys; sys.stderr = open("/dev/full", "w", 1); 1 / 0\')'
    assert str(_refusal(opening(code))).endswith("failed: ZeroDivisionError: division by zero")


_ALLOCATING = "import sys; held = b'x' * (300 << 20); sys.stdin.read()"


@pytest.mark.parametrize(
    ("code", "limits", "told"),
    [
        (
            "exec('while True: pass')",
            Limits(seconds=0.1),
            "it took longer than 0.1 s: if it only is slow, allow more with --import-timeout-secs",
        ),
        (
            "__import__('subprocess').Popen([__import__('sys').executable, '-c', "
            f"{_ALLOCATING!r}], stdin=-1).wait()",
            Limits(memory_bytes=256 << 20),
            "it took more than 0.25 GiB of memory: if the machine has more, allow it with "
            "--import-memory-gib",
        ),
    ],
)
def test_a_source_that_takes_without_end_is_given_up(
    opening: Sessions, code: str, limits: Limits, told: str
) -> None:
    refused = _refusal(opening(code, options=ImportOptions(limits=limits)))
    assert type(refused) is ModelFileError
    assert str(refused) == f"model.pkl: opening it was given up: {told}"


@pytest.mark.parametrize(
    ("code", "kind", "told"),
    [
        (
            "1 / 0",
            ModelFileError,
            "model.pkl: opening it (pickle) failed: ZeroDivisionError: division by zero",
        ),
        ("(_ for _ in ()).throw(MemoryError())", ModelFileError, "there is not enough memory for this model"),
        (
            "exec('raise ValueError(chr(27) + str(2))')",
            ModelFileError,
            r"model.pkl: opening it (pickle) failed: ValueError: \x1b2",
        ),
        (
            "__import__('of_their_own.layers')",
            UnsupportedModelError,
            "the model needs the module 'of_their_own', which is not installed here: install what it was "
            "made with, or build it in the folder where that module lies",
        ),
    ],
)
def test_what_the_source_raises_is_told(
    opening: Sessions, code: str, kind: type[EngineError], told: str
) -> None:
    refused = _refusal(opening(code))
    assert type(refused) is kind
    assert str(refused) == told


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="PyTorch is installed")
def test_a_framework_that_is_not_installed_is_told_with_its_extra(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"\x02" + b"\0" * 7 + b"{}")
    refused = _refusal(import_session(path, detect(path), _OPTIONS, is_trusted=False))
    assert type(refused) is UnsupportedModelError
    assert str(refused) == (
        "this needs torch, which is not installed; in a clone of Headrace: pip install '.[torch]'"
    )


def test_errors_of_the_child_keep_their_class_and_text_and_the_session(opening: Sessions) -> None:
    rows = np.ones((1, 1), np.float32)
    with opening("1") as session:
        with pytest.raises(EngineError, match=r"^these rows are refused$") as refused:
            session.answers({"refused": rows})
        assert type(refused.value).__name__ == "ExecutionError"
        assert len(session.answers({"x": rows})) == 1


def test_the_environment_stays_with_the_caller(opening: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRY_TOKEN", "hidden")
    with opening("sorted(__import__('os').environ.values())") as session:
        assert "hidden" not in session.facts["found"]
        assert str(Path.home()) not in session.facts["found"].split("'")


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_a_pickle_reaches_no_network(
    opening: Sessions, listener: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    port = listener.getsockname()[1]
    code = f"__import__('socket').create_connection(('127.0.0.1', {port}))"
    with caplog.at_level(logging.WARNING), opening("1"):
        pass
    if caplog.records:
        assert "was opened with network rights" in caplog.text
        pytest.skip(caplog.messages[0])
    assert "Operation not permitted" in str(_refusal(opening(code)))


def test_a_pickle_reaches_no_local_socket(opening: Sessions, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "engine.sock"))
        server.listen()
        code = "__import__('socket').socket(__import__('socket').AF_UNIX).connect('engine.sock')"
        with opening(f"__import__('os').path.exists({str(tmp_path / 'engine.sock')!r})") as session:
            assert session.facts["found"] == "True"
        assert "Operation not permitted" in str(_refusal(opening(code)))


def _makes_namespaces(**identity: Any) -> bool:
    """Whether the system lets such a user leave the network."""
    try:
        tried = subprocess.run(
            ["unshare", "--map-root-user", "--net", "true"],
            check=False,
            stderr=subprocess.DEVNULL,
            **identity,
        )
    except FileNotFoundError:
        return False
    return tried.returncode == 0


@pytest.mark.skipif(not _makes_namespaces(), reason="the system lets nobody make a namespace")
def test_a_pickle_cannot_read_its_parents_environment(opening: Sessions) -> None:
    refused = _refusal(opening(f"open('/proc/{os.getpid()}/environ').read()"))
    assert "PermissionError" in str(refused)


_WITHOUT_NAMESPACES = """
import ctypes, os, socket
from headrace_engines.importers import sandbox
os.chdir("/")
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
sandbox._leave_namespace = lambda: "operation not permitted"
parent, connection = os.getpid(), socket.socket()
def tried(do):
    try:
        do()
    except OSError as error:
        return error.strerror
    return "done"
with sandbox.closed_to_others():
    if not os.fork():
        ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
        print(sandbox.leave_network())
        library = ctypes.CDLL(None, use_errno=True)
        def take():
            if library.syscall(438, os.pidfd_open(parent), connection.fileno(), 0) < 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        print(tried(lambda: open(f"/proc/{parent}/environ").read()))
        print(tried(lambda: open(f"/proc/{parent}/mem", "r+b")))
        print(tried(take), flush=True)
        os._exit(0)
    os.wait()
print(tried(lambda: open("/proc/self/environ").read()))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_without_a_namespace_the_parent_is_closed_to_the_process_and_who_opens_is_told() -> None:
    found = subprocess.run(
        [sys.executable, "-c", _WITHOUT_NAMESPACES],
        env={"PYTHONPATH": str(Path(sandbox.__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    told = "without sockets, and yet in reach of its user's other processes: operation not permitted"
    assert found == [told, "Permission denied", "Permission denied", "Operation not permitted", "done"]


_AS_NOBODY = """
import ctypes, os
from pathlib import Path
from headrace_engines.importers import sandbox
os.chdir("/")
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
told = sandbox.leave_network()
interfaces = [line.split(":")[0].strip() for line in open("/proc/self/net/dev").readlines()[2:]]
print((told, os.getuid(), os.getgid(), interfaces))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_user_without_rights_leaves_the_network_and_stays_who_it_is() -> None:
    if not _makes_namespaces(user=65534, group=65534, cwd="/"):
        pytest.skip("the system lets no user without rights make a namespace")
    found = subprocess.run(
        [sys.executable, "-c", _AS_NOBODY],
        env={"PYTHONPATH": str(Path(sandbox.__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert found.strip() == "('', 65534, 65534, ['lo'])"
