"""How artefacts are compressed: descriptions alone, which cost nothing to import."""

from __future__ import annotations

from dataclasses import dataclass

from headrace_engines.manifest import Recipe


@dataclass(frozen=True, slots=True)
class Quantisation:
    """Where quantise and dequantise nodes are placed, which every target wants otherwise.

    Weights are symmetric INT8 with a scale for each channel. `only` are the operators to quantise
    (empty: all that are known), less `never`; outputs of those in `float_outputs` stay FP32.
    """

    name: str
    target: str
    unsigned_activations: bool
    quantised_bias: bool
    only: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    float_outputs: tuple[str, ...] = ()

    @property
    def recipe(self) -> Recipe:
        """The same as it stands in a manifest."""
        return Recipe(
            name=self.name,
            settings={
                "weights": "symmetric INT8, a scale for each channel",
                "activations": "asymmetric UINT8" if self.unsigned_activations else "symmetric INT8",
                "quantised_bias": self.quantised_bias,
                "calibration": "smallest and largest value",
                "only": ",".join(self.only),
                "never": ",".join(self.never),
                "float_outputs": ",".join(self.float_outputs),
            },
        )


INT8_CPU = Quantisation(
    name="int8-cpu",
    target="cpu",
    unsigned_activations=True,
    quantised_bias=True,
    # It would round every probability to 1/256, and is no faster.
    never=("Softmax",),
)
"""For ONNX Runtime's integer kernels on a CPU, which multiply UINT8 activations by INT8 weights."""

RECIPES = (INT8_CPU,)
"""What every build makes beside the FP32 model."""
