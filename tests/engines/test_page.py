"""The page of a build: whole by itself, true to the report, and safe whatever the names in it are."""

from __future__ import annotations

import base64
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import pytest

from headrace_engines import charts, manifest, page, report
from headrace_engines.errors import ModelFileError
from headrace_engines.manifest import Manifest
from headrace_engines.report import Layer, Report

from .conftest import BuiltDigits

_HOSTILE = '<script>alert("1")</script>&\ud800'


class _Reader(HTMLParser):
    """Collects what a browser would see, and checks that every element is closed in its order."""

    _VOID = ("meta", "img")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.links: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.links += [value or "" for name, value in attributes if name in ("src", "href")]
        if tag not in self._VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def _read(text: str) -> _Reader:
    reader = _Reader()
    reader.feed(text)
    reader.close()
    assert not reader.open
    return reader


@pytest.fixture
def folder(built_digits: BuiltDigits, tmp_path: Path) -> Path:
    for name in (manifest.FILE_NAME, report.FILE_NAME):
        shutil.copy(built_digits.result.folder / name, tmp_path)
    return tmp_path


@pytest.fixture
def made(folder: Path) -> Manifest:
    found = manifest.read(folder)
    assert found is not None
    return found


@pytest.fixture
def measured(folder: Path) -> Report:
    found = report.read(folder)
    assert found is not None
    return found


def test_a_build_brings_its_page(built_digits: BuiltDigits) -> None:
    folder = built_digits.result.folder
    assert (folder / page.FILE_NAME).read_text().startswith("<!doctype html>")
    assert (folder / "pareto.png").stat().st_size > 1000


def test_the_page_needs_nothing_beside_it_and_tells_what_was_measured(folder: Path, measured: Report) -> None:
    page.write_page(folder)
    text = (folder / page.FILE_NAME).read_text(encoding="utf-8")
    reader = _read(text)
    seen = " ".join(reader.texts)
    assert all(link.startswith("data:image/png;base64,") for link in reader.links)
    for compared in measured.comparisons:
        assert compared.recipe in seen
        assert compared.verdict in seen
        for speed in compared.speeds:
            assert f"{speed.ratio:.2f}" in seen
    pictures = [base64.b64decode(link.partition(",")[2]) for link in reader.links]
    names = ("pareto.png", "latency.png", "size.png", "layers.int8-cpu.png")
    files = [(folder / name).read_bytes() for name in names]
    assert pictures == files
    for name in ("pareto.png", "latency.png", "size.png"):
        height, width, _ = matplotlib.image.imread(folder / name).shape
        assert (height, width) == (462, 770)


def test_names_out_of_a_model_stay_text(made: Manifest, measured: Report) -> None:
    tensor = replace(made.inputs[0], name=_HOSTILE)
    hostile = replace(made, source=replace(made.source, name=_HOSTILE), inputs=(tensor,))
    reader = _read(page.render(hostile, replace(measured, warnings=(_HOSTILE,)), {}))
    assert reader.scripts == 0
    assert "".join(reader.texts).count('<script>alert("1")</script>&\\ud800') == 5


def test_layers_and_refusals_are_drawn_where_there_are_any(measured: Report) -> None:
    first = replace(measured.comparisons[0], layers=())
    layers = tuple(Layer(f"conv_{at}", "Conv", 10.0 + at, kept=at < 2) for at in range(40))
    with_layers = replace(first, recipe="int8-mixed", layers=layers, passed=False)
    drawn = charts.draw(replace(measured, comparisons=(first, with_layers)))
    assert charts.names(drawn) == ["pareto.png", "latency.png", "size.png", "layers.int8-mixed.png"]
    without = replace(first, speeds=(), quality=None)
    assert list(charts.draw(replace(measured, comparisons=(without,)))) == ["size.png"]
    assert charts.draw(replace(measured, comparisons=())) == {}


def test_the_same_figures_are_the_same_pictures(measured: Report) -> None:
    assert charts.draw(measured) == charts.draw(measured)


def test_a_page_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=re.escape("manifest.json or report.json is missing")):
        page.write_page(tmp_path)
