"""PMML documents of a few fields, written by hand around the element that a test is about."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

FIELDS = ("a", "b")


def document(
    model: str,
    *,
    classes: Sequence[str] = (),
    class_type: str = "string",
    fields: Sequence[str] = FIELDS,
    field_type: str = "double",
    before: str = "",
    version: str = "4.4",
) -> str:
    """A document with this model; MINING stands for its schema, with the target `y`."""
    values = "".join(f'<Value value="{name}"/>' for name in classes)
    kind = (
        f'optype="categorical" dataType="{class_type}"'
        if classes
        else 'optype="continuous" dataType="double"'
    )
    listed = "".join(
        f'<DataField name="{name}" optype="continuous" dataType="{field_type}"/>' for name in fields
    )
    asked = "".join(f'<MiningField name="{name}"/>' for name in fields)
    schema = f'<MiningSchema>{asked}<MiningField name="y" usageType="target"/></MiningSchema>'
    return (
        f'<?xml version="1.0"?>\n<PMML xmlns="http://www.dmg.org/PMML-{version.replace(".", "_")}" '
        f'version="{version}"><Header/><DataDictionary>{listed}'
        f'<DataField name="y" {kind}>{values}</DataField>'
        f"</DataDictionary>{before}\n{model.replace('MINING', schema)}\n</PMML>"
    )


def written(text: str, folder: Path) -> Path:
    """The document as a file."""
    path = folder / "model.pmml"
    path.write_text(text)
    return path


def regression(inside: str, **attributes: str) -> str:
    """A RegressionModel; `functionName` is regression unless it is told."""
    told = {"functionName": "regression", **attributes}
    listed = " ".join(f'{name}="{value}"' for name, value in told.items())
    return f"<RegressionModel {listed}>MINING{inside}</RegressionModel>"


def tree(inside: str, **attributes: str) -> str:
    """A TreeModel around what is inside its outermost node."""
    told = {"functionName": "regression", **attributes}
    listed = " ".join(f'{name}="{value}"' for name, value in told.items())
    return f'<TreeModel {listed}>MINING<Node score="-1"><True/>{inside}</Node></TreeModel>'


def split(predicate: str, *, yes: float = 1, no: float = 0) -> str:
    """A tree of one question, whose answers are two numbers."""
    return tree(f'<Node score="{yes}">{predicate}</Node><Node score="{no}"><True/></Node>')
