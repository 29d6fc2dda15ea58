"""The ways in which PyTorch models are stored: how each is told by its content, and opened.

Weights alone (a state_dict, safetensors) hold no code: the module that they belong to comes from the
function that the build names. A pickled module and a `torch.export` program are pickles, which execute
what their author put in them; a TorchScript archive is a program of its own, too.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Final

import torch
from torch.export import ExportedProgram
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from headrace_engines.errors import ModelFileError, UnsupportedModelError, UntrustedSource
from headrace_engines.importers.importer import ImportOptions
from headrace_engines.importers.missing import missing
from headrace_engines.importers.reasons import brief
from headrace_engines.importers.torch_signature import name_of
from headrace_engines.named_function import named_function

_CHECKPOINT_KEYS: Final = ("state_dict", "model_state_dict", "model")
_WRAPPERS: Final = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before the names of weights."""

_LEGACY_MAGIC: Final = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


class Stored(Enum):
    """How a model was written; the value is what people call it."""

    PROGRAM = "torch.export program"
    SCRIPT = "TorchScript archive"
    PICKLE = "torch.save file"
    SAFETENSORS = "safetensors file"


def stored(path: Path) -> Stored:
    """Return how the file was written; nothing of it is executed.

    Raises ModelFileError for half of a file, UnsupportedModelError for what PyTorch does not write.
    """
    with path.open("rb") as file:
        start = file.read(32)
    if zipfile.is_zipfile(path):
        return _in_zip(path)
    if start.startswith(b"PK"):
        raise ModelFileError(
            f"{path.name}: a zip archive without its end: the file was cut off; save or copy it again"
        )
    if start[8:9] == b"{":
        return Stored.SAFETENSORS
    if _LEGACY_MAGIC in start:
        return Stored.PICKLE
    raise UnsupportedModelError(f"{path.name}: none of PyTorch's formats; read are {_all()}")


def opened(path: Path, options: ImportOptions) -> torch.nn.Module | ExportedProgram:
    """Open a file as the module or program that it stands for, on the CPU.

    Raises UntrustedSource where that would execute code that nobody allowed, ModelFileError for a file
    that is damaged, UnsupportedModelError for one that holds no model or does not fit the factory's.
    """
    kind = stored(path)
    if kind in (Stored.PROGRAM, Stored.SCRIPT) and not options.is_trusted:
        raise UntrustedSource(f"{path.name}: opening a {kind.value} can execute code; allow it with --trust")
    try:
        match kind:
            case Stored.SAFETENSORS:
                from safetensors.torch import load_file

                held: Any = load_file(path)
            case Stored.PROGRAM:
                held = torch.export.load(path)
            case Stored.SCRIPT:
                held = torch.jit.load(path, map_location="cpu")
            case Stored.PICKLE:
                held = _unpickled(path, options)
    except (UntrustedSource, UnsupportedModelError):
        raise
    except ModuleNotFoundError as error:
        raise missing(error) from error
    except Exception as error:  # each way of reading has failures of its own
        raise ModelFileError(f"{path.name}: it cannot be read as a {kind.value}: {brief(error)}") from error
    return _model(path, held, options)


def _in_zip(path: Path) -> Stored:
    with zipfile.ZipFile(path) as archive:
        members = {name.partition("/")[2] or name for name in archive.namelist()}
    if {"archive_format", "serialized_exported_program.json"} & members:
        return Stored.PROGRAM
    if "constants.pkl" in members:
        return Stored.SCRIPT
    if "data.pkl" in members:
        return Stored.PICKLE
    raise UnsupportedModelError(f"{path.name}: a zip archive without a PyTorch model; read are {_all()}")


def _all() -> str:
    return ", ".join(kind.value for kind in Stored)


def _unpickled(path: Path, options: ImportOptions) -> Any:
    """Open a pickle as weights, which executes nothing, and only if that fails and is allowed as code."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        if not options.is_trusted:
            _refuse_code(path)
            raise
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except (AttributeError, ModuleNotFoundError) as error:
        raise UnsupportedModelError(
            f"{path.name}: it holds a whole module without its code ({brief(error)}): build it in the "
            "folder where that code lies, or save module.state_dict() and name what makes the module: "
            "--factory file.py:function"
        ) from error


def _refuse_code(path: Path) -> None:
    found = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    names = sorted(found, key=lambda name: (name.startswith("torch."), name))  # others' first
    if names:
        some = f"{', '.join(names[:3])}{' and others' if len(names) > 3 else ''}"
        raise UntrustedSource(
            f"{path.name}: it holds more than weights, and opening it can execute code (it names {some}): "
            "allow it with --trust if you know where it comes from, or save module.state_dict()"
        )


def _model(path: Path, held: Any, options: ImportOptions) -> torch.nn.Module | ExportedProgram:
    if isinstance(held, ExportedProgram | torch.nn.Module):
        if options.factory:
            raise UnsupportedModelError(f"{path.name}: it holds a whole model, so leave out --factory")
        return held.module if isinstance(held, torch.nn.DataParallel) else held
    weights = _weights(held)
    if weights is None:
        raise UnsupportedModelError(
            f"{path.name}: it holds {type(held).__name__}, and neither a module nor a state_dict of one"
        )
    if not options.factory:
        raise UnsupportedModelError(
            f"{path.name}: it holds weights without their module ({len(weights)} tensors, first "
            f"{next(iter(weights))!r}): name what makes the module: --factory file.py:function"
        )
    return _filled(path, weights, options.factory)


def _weights(held: Any) -> dict[str, torch.Tensor] | None:
    """Return the weights of a state_dict, or of a training's checkpoint that has one among other things."""
    if not isinstance(held, Mapping) or not held:
        return None
    if all(isinstance(value, torch.Tensor) for value in held.values()):
        weights = dict(held)
        for prefix in _WRAPPERS:
            consume_prefix_in_state_dict_if_present(weights, prefix)
        return weights
    return next((_weights(held[key]) for key in _CHECKPOINT_KEYS if isinstance(held.get(key), Mapping)), None)


def _filled(path: Path, weights: dict[str, torch.Tensor], factory: str) -> torch.nn.Module:
    try:
        module = named_function(factory)()
    except ValueError as error:
        raise UnsupportedModelError(f"--factory: {error}") from error
    except Exception as error:  # the function is the builder's own
        raise UnsupportedModelError(f"--factory {factory} raised {brief(error)}") from error
    if not isinstance(module, torch.nn.Module):
        raise UnsupportedModelError(
            f"--factory {factory} returned {type(module).__name__}, and no torch.nn.Module"
        )
    _tie(module, weights)
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise UnsupportedModelError(
            f"{path.name}: its weights are not those of {name_of(module)}, which --factory {factory} "
            f"returned: {brief(error)}"
        ) from error
    return module


def _tie(module: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Add the names of weights that are another's, too, and that safetensors stores once."""
    first: dict[int, str] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        same = first.setdefault(id(parameter), name)
        if name not in weights and same in weights:
            weights[name] = weights[same]
        elif same not in weights and name in weights:
            weights[same] = weights[name]
