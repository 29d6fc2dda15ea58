"""What can be done to a model, one small frozen description a step."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Final


class Numbers(Enum):
    """Formats of quantised activations."""

    INT8 = "symmetric INT8"
    UINT8 = "asymmetric UINT8"


class Calibration(Enum):
    """How the range of an activation follows from the rows that were seen."""

    MIN_MAX = "smallest and largest value"
    PERCENTILE = "all but the outermost 0.001 %"
    ENTROPY = "least loss of information"


@dataclass(frozen=True, slots=True)
class Quantise:
    """Quantise with scales that are fixed beforehand, so that no row changes another's answer.

    Weights are symmetric INT8 with a scale for each channel. Every target wants quantise and
    dequantise nodes in other places: `only` are the operators to quantise (empty: all that are
    known), less `never`, and `dense` those of a model without a convolution; outputs of those in
    `float_outputs` stay FP32.
    """

    verb: ClassVar[str] = "quantise"
    activations: Numbers
    quantised_bias: bool
    calibration: Calibration
    only: tuple[str, ...] = ()
    dense: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    float_outputs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class QuantiseDynamically:
    """INT8 weights, and scales of activations computed from each batch: for single rows alone."""

    verb: ClassVar[str] = "quantise-dynamically"
    only: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class QuantiseFloat8:
    """FP8 (E4M3) weights and activations before the operators `only`, a fixed scale for each tensor."""

    verb: ClassVar[str] = "quantise-float8"
    only: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Half:
    """Weights and activations in FP16; inputs and outputs keep their datatypes."""

    verb: ClassVar[str] = "half"


@dataclass(frozen=True, slots=True)
class Clip:
    """Cut off the largest weights, so that a scale wastes no steps on a few outliers.

    In each layer, whatever is beyond the `percentile` of the magnitudes is moved onto it.
    """

    verb: ClassVar[str] = "clip"
    percentile: float = 99.9


@dataclass(frozen=True, slots=True)
class PruneMagnitude:
    """Set the smallest `share` of the weights of each layer to zero."""

    verb: ClassVar[str] = "prune-magnitude"
    share: float = 0.5


@dataclass(frozen=True, slots=True)
class PruneTwoOfFour:
    """Set two of every four neighbouring weights to zero, which sparse tensor cores skip."""

    verb: ClassVar[str] = "prune-2of4"


@dataclass(frozen=True, slots=True)
class PruneStructured:
    """Remove hidden units and channels that the others of their layer explain.

    As many are removed as leave at most the share `unexplained` of the variance of what the layer
    hands on; the number left is a multiple of `multiple`, which kernels want. What a removed one
    contributed is taken over by the weights of those that stay.
    """

    verb: ClassVar[str] = "prune-structured"
    unexplained: float = 0.01
    multiple: int = 8


class Framework(Enum):
    """What trains a student."""

    SKLEARN = "scikit-learn"
    TORCH = "PyTorch"


@dataclass(frozen=True, slots=True)
class Distil:
    """Train a smaller network on the model's answers to `rows` rows, most of them between two given ones.

    It has `layers` hidden layers of `hidden` units; PyTorch's for pictures convolves first.
    """

    verb: ClassVar[str] = "distil"
    framework: Framework
    hidden: int = 64
    layers: int = 2
    rows: int = 8192
    batch: int = 64
    epochs: int = 20
    seed: int = 0


Step = (
    Distil
    | Quantise
    | QuantiseDynamically
    | QuantiseFloat8
    | Half
    | Clip
    | PruneMagnitude
    | PruneTwoOfFour
    | PruneStructured
)

_LAST: Final = (Quantise, QuantiseDynamically, QuantiseFloat8, Half)


def is_last(step: Step) -> bool:
    """Tell whether the step changes the number format, after which nothing else can be done."""
    return isinstance(step, _LAST)
