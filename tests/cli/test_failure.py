from __future__ import annotations

import pytest

from headrace_cli.failure import CommandError, ExitCode, failing, needs


def test_a_missing_library_is_mended_by_an_extra() -> None:
    with pytest.raises(CommandError) as caught, needs("cpu"):
        raise ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime")
    assert caught.value.exit_code is ExitCode.USAGE
    assert str(caught.value) == (
        "this needs onnxruntime, which is not installed; in a clone of Headrace: pip install '.[cpu]'"
    )


@pytest.mark.parametrize("name", ["headrace_server.nothing", None])
def test_a_module_of_ours_that_is_missing_is_a_defect(name: str | None) -> None:
    with pytest.raises(ModuleNotFoundError), needs("cpu"):
        raise ModuleNotFoundError("No module", name=name)


def test_failures_of_a_kind_become_the_commands() -> None:
    with pytest.raises(CommandError, match=r"^no such thing$") as caught, failing(LookupError):
        raise LookupError("no such thing")
    assert caught.value.exit_code is ExitCode.FAILED
    with pytest.raises(ValueError, match="other"), failing(LookupError):
        raise ValueError("other")
    with pytest.raises(BrokenPipeError), failing(OSError):
        raise BrokenPipeError
    with pytest.raises(CommandError, match=r"^/folder: no space left on device$"), failing(OSError):
        raise OSError(28, "No space left on device", "/folder")
    with pytest.raises(CommandError, match=r"^ConnectionError$"), failing(ConnectionError):
        raise ConnectionError
