"""What a PyTorch module takes and gives, as far as it tells: names, dtypes, the dims of one row."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch.utils import _pytree as pytree

from headrace_engines.errors import UnsupportedModelError
from headrace_engines.importers.importer import ImportOptions
from headrace_engines.spec import ANY

TRACED_ROWS: Final = 2
"""Rows of the batch that a module is traced with; one row would be taken for a module of one row."""

_TRACED_SIZE: Final = 7
"""Of a dimension that each request chooses."""


@dataclass(frozen=True, slots=True)
class Input:
    """One tensor that a module takes; `dims` are those of one row, -1 where each request chooses."""

    name: str
    dtype: torch.dtype
    dims: tuple[int, ...]
    is_keyword: bool = False

    def example(self) -> torch.Tensor:
        """Return values that any module takes: ones, and for integers the index 0."""
        sizes = [_TRACED_SIZE if dim == ANY else dim for dim in self.dims]
        make = torch.ones if self.dtype.is_floating_point else torch.zeros
        return make(TRACED_ROWS, *sizes, dtype=self.dtype)

    def __str__(self) -> str:
        return f"{self.name}: {_written(self.dtype)} {[TRACED_ROWS, *self.dims]}"


@dataclass(frozen=True, slots=True)
class _Parameter:
    name: str
    is_needed: bool
    is_keyword: bool = False


def inputs(module: torch.nn.Module, options: ImportOptions) -> tuple[Input, ...]:
    """Return what `forward` takes, in its order, with dtypes and dims from the options.

    Arguments that have a default are left out unless an option names them. Raises UnsupportedModelError
    with what to add to the command line where dims are missing or an option names nothing.
    """
    parameters = _parameters(module, options)
    known = {parameter.name for parameter in parameters}
    for name in (*options.input_shapes, *options.input_dtypes):
        if name not in known:
            raise UnsupportedModelError(
                f"{name_of(module)}.forward takes no {name!r}; it takes {', '.join(sorted(known)) or 'none'}"
            )
    wanted = [each for each in parameters if each.is_needed or each.name in options.input_shapes]
    for name, dims in options.input_shapes.items():
        if any(dim < 1 and dim != ANY for dim in dims):
            raise UnsupportedModelError(
                f"the input {name!r} cannot have dims {list(dims)}: expected sizes from 1, or -1 for any"
            )
    missing = [each.name for each in wanted if each.name not in options.input_shapes]
    if missing or not wanted:
        raise UnsupportedModelError(_question(module, missing or ["input"]))
    return tuple(
        Input(each.name, _dtype(each.name, options), tuple(options.input_shapes[each.name]), each.is_keyword)
        for each in wanted
    )


def arranged(
    taken: Sequence[Input], tensors: Sequence[torch.Tensor]
) -> tuple[tuple[torch.Tensor, ...], dict[str, torch.Tensor]]:
    """Return tensors as the positional and the keyword arguments of `forward`."""
    pairs = list(zip(taken, tensors, strict=True))
    return (
        tuple(tensor for each, tensor in pairs if not each.is_keyword),
        {each.name: tensor for each, tensor in pairs if each.is_keyword},
    )


def named(answer: Any, module: str) -> list[tuple[str, torch.Tensor]]:
    """Return the tensors of what `forward` returned, each with its name, in the order they stand in.

    The name is that of a dictionary's or named tuple's entry, or `output_0` and so on, or `output` for a
    single tensor. None among them is left out.
    """
    leaves = [(path, leaf) for path, leaf in pytree.tree_flatten_with_path(answer)[0] if leaf is not None]
    for _, leaf in leaves:
        if not isinstance(leaf, torch.Tensor):
            raise UnsupportedModelError(
                f"{module}.forward returns {type(leaf).__name__}, which is no tensor: "
                "let it return a tensor, or a tuple, dictionary or named tuple of tensors"
            )
    return [(_name(path), leaf) for path, leaf in leaves]


def name_of(module: torch.nn.Module) -> str:
    """Return the name of the module's class, of a scripted one the class it was made from."""
    return str(getattr(module, "original_name", "")) or type(module).__qualname__


def _name(path: Iterable[Any]) -> str:
    parts = [str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", "")))) for key in path]
    if not parts or parts[0].isdecimal():
        parts.insert(0, "output")
    return "_".join(parts)


def _parameters(module: torch.nn.Module, options: ImportOptions) -> list[_Parameter]:
    if isinstance(module, torch.jit.ScriptModule):
        arguments = module.forward.schema.arguments[1:]  # the first is the module
        return [_Parameter(each.name, not each.has_default_value(), each.kwarg_only) for each in arguments]
    found: list[_Parameter] = []
    for name, parameter in inspect.signature(module.forward).parameters.items():
        match parameter.kind:
            case inspect.Parameter.VAR_POSITIONAL:
                found += [_Parameter(each, True) for each in options.input_shapes]
            case inspect.Parameter.VAR_KEYWORD:
                continue
            case kind:
                is_keyword = kind is inspect.Parameter.KEYWORD_ONLY
                found.append(_Parameter(name, parameter.default is parameter.empty, is_keyword))
    return found


def _dtype(name: str, options: ImportOptions) -> torch.dtype:
    text = options.input_dtypes.get(name) or "float32"
    dtype = getattr(torch, text, None)
    if not isinstance(dtype, torch.dtype):
        raise UnsupportedModelError(
            f"PyTorch has no dtype {text!r} for the input {name!r}; float32, int64 are some"
        )
    return dtype


def _question(module: torch.nn.Module, missing: Sequence[str]) -> str:
    flags = " ".join(f"--input {name}:float32:{_first_dims(module)}" for name in missing)
    return (
        f"the file does not tell what one row of {', '.join(missing)} of {name_of(module)} is like: give the "
        f"dtype and the dims without the batch, for example {flags} (int64 for indices)"
    )


def _first_dims(module: torch.nn.Module) -> str:
    """Return what may be the dims of a row, judging by the first weights."""
    weights = next((each for each in module.parameters() if each.ndim > 1), None)
    if weights is None or weights.ndim == 2:
        return "10" if weights is None else str(weights.shape[1])
    return ",".join([str(weights.shape[1]), *["32"] * (weights.ndim - 2)])


def _written(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
