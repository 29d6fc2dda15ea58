"""Which packages the extras of a server bring: exactly one of those that overwrite each other's files."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

_ROOT: Final = Path(__file__).parents[2]
_EXTRAS: Final[dict[str, list[str]]] = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"][
    "optional-dependencies"
]
_SERVERS: Final = ("cpu", "cuda", "tensorrt", "rtx", "tensorrt-cuda", "rtx-cuda")


def brought(extra: str) -> Iterator[str]:
    """Yield the requirements of an extra, those of the extras that it asks for among them."""
    for requirement in _EXTRAS[extra]:
        own = re.fullmatch(r"headrace\[([\w,-]+)\]", requirement)
        if own is None:
            yield requirement
        else:
            for other in own[1].split(","):
                yield from brought(other)


@pytest.mark.parametrize("extra", _SERVERS)
def test_an_extra_is_a_whole_server(extra: str) -> None:
    names = [re.split(r"[\[>=<;]", one)[0] for one in brought(extra)]
    assert len({"onnxruntime", "onnxruntime-gpu"} & {*names}) == 1
    assert {"grpcio-health-checking", "prometheus-client"} <= {*names}
    if extra != "cpu":
        assert {"cuda-bindings", "nvidia-ml-py"} <= {*names}


@pytest.mark.parametrize("extra", [extra for extra in _SERVERS if "cuda" in extra])
def test_the_provider_comes_with_the_libraries_that_it_needs(extra: str) -> None:
    assert any(one.startswith("onnxruntime-gpu[cuda,cudnn]") for one in brought(extra))


@pytest.mark.parametrize("extra", _SERVERS[1:])
def test_the_page_about_gpus_tells_of_the_extra(extra: str) -> None:
    page = (_ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    assert f"pip install '.[{extra}]'" in page
