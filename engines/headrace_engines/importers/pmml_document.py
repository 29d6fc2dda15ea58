"""What a PMML document says of a model: plain facts, in which names and numbers are read already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

COMPARISONS: Final = ("equal", "notEqual", "lessThan", "lessOrEqual", "greaterThan", "greaterOrEqual")
"""The operators of a comparison with a number."""


@dataclass(frozen=True, slots=True)
class Constant:
    """A number that does not depend on the row."""

    value: float


@dataclass(frozen=True, slots=True)
class FieldRef:
    """The value of a field."""

    name: str


@dataclass(frozen=True, slots=True)
class Apply:
    """Arithmetic with two values: `function` is one of + - * /."""

    function: str
    left: Expression
    right: Expression


Expression = Constant | FieldRef | Apply


@dataclass(frozen=True, slots=True)
class Filling:
    """What is put in the place of a value that is missing: NaN, or one of the `codes` that stand for it."""

    codes: tuple[float, ...]
    value: float


@dataclass(frozen=True, slots=True)
class Derived:
    """A field that is calculated from others, which were defined before it."""

    name: str
    expression: Expression


@dataclass(frozen=True, slots=True)
class Comparison:
    """Whether a field stands to a number as `operator` says, which is one of COMPARISONS."""

    field: str
    operator: str
    value: float


@dataclass(frozen=True, slots=True)
class Membership:
    """Whether a field is one of the values, or none of them."""

    field: str
    values: tuple[float, ...]
    is_in: bool


@dataclass(frozen=True, slots=True)
class Always:
    """The same for every row."""

    is_true: bool


@dataclass(frozen=True, slots=True)
class Compound:
    """All of the parts, or any of them."""

    needs_all: bool
    parts: tuple[Predicate, ...]


Predicate = Comparison | Membership | Always | Compound


@dataclass(frozen=True, slots=True)
class Leaf:
    """What a node of a tree answers.

    `values` are a probability for each class in the document's order, or the one number that is predicted;
    `label` is the place of the class that is predicted, 0 for a number.
    """

    values: tuple[float, ...]
    label: int


@dataclass(frozen=True, slots=True)
class Node:
    """A node of a tree: of its children the first whose predicate holds is gone to."""

    predicate: Predicate
    leaf: Leaf | None
    children: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Tree:
    """A tree; `falls_back` says that a node none of whose children holds answers itself."""

    root: Node
    falls_back: bool


@dataclass(frozen=True, slots=True)
class Term:
    """A field to the power of `exponent`, times `coefficient`."""

    field: str
    exponent: int
    coefficient: float


@dataclass(frozen=True, slots=True)
class Table:
    """A sum of terms; `category` is the place of its class, 0 where a number is predicted."""

    category: int
    intercept: float
    terms: tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class Regression:
    """Sums, one for each class or one number, and what becomes of them: `normalization` names it."""

    normalization: str
    tables: tuple[Table, ...]


@dataclass(frozen=True, slots=True)
class Given:
    """A field that is one of the values that the model before predicts."""

    name: str
    place: int


@dataclass(frozen=True, slots=True)
class Segment:
    """A model among others; `outputs` are the fields that it gives to those after it."""

    weight: float
    model: Model
    outputs: tuple[Given | Derived, ...]


@dataclass(frozen=True, slots=True)
class Mining:
    """Several models; `method` says what becomes of their answers.

    average, weightedAverage and sum are of numbers or probabilities, majorityVote and weightedMajorityVote
    count labels, and in a modelChain the last model answers, which is asked with what those before gave.
    """

    method: str
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class Layer:
    """Neurons: `weights` [neurons, inputs], `biases`, and what is done to each sum, then to all."""

    weights: tuple[tuple[float, ...], ...]
    biases: tuple[float, ...]
    activation: str
    normalization: str


@dataclass(frozen=True, slots=True)
class Network:
    """Layers after one another.

    `outputs` are the neurons of the last one that answer: one for each class, or one number, which is
    multiplied by `factor`, and has `constant` added then.
    """

    inputs: tuple[Expression, ...]
    layers: tuple[Layer, ...]
    outputs: tuple[int, ...]
    factor: float
    constant: float


@dataclass(frozen=True, slots=True)
class Model:
    """A model with the fields that it calculates, and what is done to the number that it predicts.

    `classes` is how many classes it tells apart, 0 where it predicts a number, which is multiplied by
    `factor`, and has `constant` added then.
    """

    body: Tree | Regression | Mining | Network
    classes: int
    derived: tuple[Derived, ...]
    factor: float
    constant: float


@dataclass(frozen=True, slots=True)
class Document:
    """A model, and the fields that it is asked with, in the order of its schema.

    `classes` are the target's values as they are written, in their order; empty where a number is predicted.
    `fillings` are for those columns in which a value may be missing.
    """

    version: str
    element: str
    columns: tuple[str, ...]
    target: str
    classes: tuple[str, ...]
    model: Model
    fillings: Mapping[str, Filling] = field(default_factory=dict)
