from __future__ import annotations

import gc
import logging
import os
import sys
import textwrap
import weakref
from pathlib import Path

import pytest

from headrace_engines.declaration import Declaration
from headrace_engines.errors import ModelFileError
from headrace_engines.runtime.python import PythonEngine

HEAD = "from headrace_engines.python_model import *\n"
MODEL = """
class Model:
    inputs = [Tensor("x", "FP32", [2])]
    outputs = [Tensor("y", "FP32", [2])]

    def execute(self, batch):
        return {"y": batch["x"]}
"""


def version(folder: Path, code: str, number: str = "1", **beside: str) -> Path:
    """Write a version folder; `beside` is the code of what stands beside model.py, by module."""
    here = folder / "echo" / number
    here.mkdir(parents=True, exist_ok=True)
    for name, text in beside.items():
        (here / f"{name}.py").write_text(text)
    path = here / "model.py"
    path.write_text(HEAD + textwrap.dedent(code), encoding="utf-8")
    return path


def opened(path: Path, **parameters: str) -> PythonEngine:
    declaration = Declaration(parameters=parameters)
    return PythonEngine(path, declaration, max_batch_size=8, version=path.parent.name)


def own_modules() -> set[str]:
    return {name for name in sys.modules if name.startswith("echo-")}


@pytest.mark.parametrize(
    ("code", "message"),
    [
        pytest.param("\nx = = 1", r"model\.py:3: SyntaxError: invalid syntax", id="syntax"),
        pytest.param("x = 1\0", r"^model\.py: SyntaxError: source code string cannot", id="a zero byte"),
        pytest.param("\nx = 1 / 0", r"model\.py:3: ZeroDivisionError: division by zero", id="at import"),
        pytest.param("import sys\nsys.exit(4)", r"model\.py:3: SystemExit: 4", id="an exit"),
        pytest.param("import nowhere_at_all", r"model\.py:2: ModuleNotFoundError: No module", id="no module"),
        pytest.param(
            "\nimport tokens",
            r"model\.py:3: ModuleNotFoundError: .*; what stands beside it is imported relatively: "
            r"from \.tokens import",
            id="absolute import of a neighbour",
        ),
        pytest.param(
            "from .wrong import x", r"wrong\.py:2: NameError: name 'nothing'", id="in what stands beside it"
        ),
        pytest.param(
            "import triton_python_backend_utils as pb_utils",
            r"model\.py:2: ModuleNotFoundError: .*; written for Triton's Python backend: a class Model of",
            id="for Triton",
        ),
        pytest.param(
            MODEL.replace("Model", "TritonPythonModel"),
            r"model\.py: written for Triton's Python backend: a class Model of its own kind is expected",
            id="Triton's class",
        ),
        pytest.param("x = 1", r"model\.py: no class with a method `execute\(self, batch\)`", id="no class"),
        pytest.param("Model = 3", r"model\.py: no class with a method `execute", id="Model is no class"),
        pytest.param(
            MODEL.replace("Model", "A") + MODEL.replace("Model", "B"),
            "A, B have a method `execute`: name one of them Model",
            id="two classes",
        ),
        pytest.param(
            MODEL.replace("def execute", "async def execute"),
            "Model.execute is asynchronous",
            id="asynchronous",
        ),
        pytest.param(
            MODEL + '    def load(self, context):\n        raise OSError("no weights")',
            r"model\.py:10: OSError: no weights",
            id="load",
        ),
        pytest.param(
            MODEL + "    def load(self):\n        pass",
            r"model\.py: TypeError: .*load\(\) takes 1",
            id="load's arguments",
        ),
        pytest.param(
            MODEL + "    def __init__(self, a):\n        pass",
            "TypeError: .*__init__",
            id="constructor's arguments",
        ),
        pytest.param(
            MODEL.replace("FP32", "float"),
            r"model\.py:4: ValueError: tensor 'x': datatype 'float' came, one of BOOL",
            id="datatype",
        ),
        pytest.param(
            MODEL.replace("[2]", "[-2]"), r"dims \[-2\] came, whole numbers from -1 expected", id="dims"
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_place(tmp_path: Path, code: str, message: str) -> None:
    path = version(tmp_path, code, tokens="", wrong="\nnothing")
    with pytest.raises(ModelFileError, match=message) as failed:
        opened(path)
    assert str(tmp_path) not in str(failed.value)
    assert not own_modules()


@pytest.mark.parametrize("code", ["\nx = = 1", "\nx = 1 / 0", "\nimport nowhere", "\nfrom .wrong import x"])
def test_the_line_is_told_of_a_repository_that_is_named_relatively(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    path = version(tmp_path, code, wrong="\n\nnothing")
    (tmp_path / "beside").mkdir()
    monkeypatch.chdir(tmp_path / "beside")
    with pytest.raises(ModelFileError, match=r"^(model|wrong)\.py:3: \w+Error: "):
        opened(Path("..") / path.relative_to(tmp_path))


@pytest.mark.parametrize("name", ["model.py", "other.txt", "a.b.py"])
def test_a_file_that_is_no_module_is_told(tmp_path: Path, name: str) -> None:
    if name != "model.py":
        (tmp_path / name).write_text("")
    with pytest.raises(ModelFileError, match=r"a file with Python code, \*\.py, expected"):
        opened(tmp_path / name)


@pytest.mark.parametrize(
    "code",
    [
        MODEL.replace("class Model", "class Echo"),
        MODEL + MODEL.replace("class Model", "class Echo"),
        "from .impl import Model",
        "from .impl import Model as Base\nclass Echo(Base): pass",
    ],
    ids=["any name", "Model before others", "Model from beside", "a subclass"],
)
def test_the_class_is_found(tmp_path: Path, code: str) -> None:
    opened(version(tmp_path, code, impl=HEAD + MODEL)).close()


def test_the_program_is_told_where_it_is(tmp_path: Path) -> None:
    path = version(
        tmp_path,
        MODEL + "    max_batch_size = 4\n    def load(self, context):\n        self.context = context",
    )
    engine = opened(path, temperature="0.5")
    other = engine.replicate()
    context, another = engine._model.context, other._model.context
    assert (context.folder, context.version, dict(context.parameters)) == (
        path.parent,
        "1",
        {"temperature": "0.5"},
    )
    assert context.max_batch_size == 4
    assert (context.instance, another.instance) == (0, 1)
    engine.close()
    other.close()


def test_instances_have_their_own_state_and_share_the_module_until_the_last_is_closed(tmp_path: Path) -> None:
    code = (
        MODEL
        + "    def close(self):\n        import logging\n        logging.getLogger(__name__).error('closed')"
    )
    engine = opened(version(tmp_path, code))
    other = engine.replicate()
    assert engine._model is not other._model
    assert type(engine._model) is type(other._model)
    engine.close()
    assert own_modules()
    other.close()
    assert not own_modules()


def test_a_close_that_fails_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine = opened(version(tmp_path, MODEL + "    def close(self):\n        raise SystemExit('gone wrong')"))
    engine.close()
    assert "gone wrong" in caplog.text
    assert not own_modules()


def test_an_instance_that_fails_to_load_leaves_the_others(tmp_path: Path) -> None:
    code = MODEL + "    def load(self, context):\n        1 // (1 - context.instance)"
    engine = opened(version(tmp_path, code))
    with pytest.raises(ModelFileError, match="ZeroDivisionError"):
        engine.replicate()
    assert own_modules()
    engine.close()


def test_versions_have_their_own_modules(tmp_path: Path) -> None:
    code = "from .tokens import NUMBER\n" + MODEL
    engines = [opened(version(tmp_path, code, number, tokens=f"NUMBER = {number}")) for number in ("1", "2")]
    numbers = [sys.modules[type(engine._model).__module__].NUMBER for engine in engines]
    assert numbers == [1, 2]
    assert "tokens" not in sys.modules
    for engine in engines:
        engine.close()
    assert not any(str(tmp_path) in entry for entry in sys.path)


def test_a_module_is_imported_when_it_is_needed(tmp_path: Path) -> None:
    code = (
        MODEL
        + "    def load(self, context):\n        from .inner import deep\n        self.number = deep.NUMBER"
    )
    path = version(tmp_path, code)
    (path.parent / "inner").mkdir()
    (path.parent / "inner" / "__init__.py").write_text("")
    (path.parent / "inner" / "deep.py").write_text("from ..tokens import NUMBER")
    (path.parent / "tokens.py").write_text("NUMBER = 7")
    engine = opened(path)
    assert engine._model.number == 7
    engine.close()


def test_changed_code_is_read_anew_even_within_a_second_and_nothing_is_written(tmp_path: Path) -> None:
    code = "from .tokens import NUMBER\n" + MODEL
    for number in (1, 2, 3):
        path = version(tmp_path, code, tokens=f"NUMBER = {number}")
        for file in (path, path.parent / "tokens.py"):
            os.utime(file, (1_000_000_000, 1_000_000_000))
        engine = opened(path)
        assert number == sys.modules[type(engine._model).__module__].NUMBER
        engine.close()
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["model.py", "tokens.py"]


def test_a_closed_program_leaves_nothing_behind(tmp_path: Path) -> None:
    engine = opened(version(tmp_path, MODEL))
    gone = weakref.ref(type(engine._model))
    engine.close()
    del engine
    gc.collect()
    assert gone() is None


def test_the_trace_of_a_failure_shows_its_lines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with pytest.raises(ModelFileError):
        opened(version(tmp_path, "\ndef fails():\n    raise OSError('here')\nfails()"))
    assert "raise OSError('here')" in caplog.text


def test_classes_of_a_program_can_be_pickled(tmp_path: Path) -> None:
    code = MODEL + "import pickle\nclass Word: pass\nassert type(pickle.loads(pickle.dumps(Word()))) is Word"
    opened(version(tmp_path, code)).close()
