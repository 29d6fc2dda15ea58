"""Which columns of a table, or which array, each input of a model takes.

Names decide wherever there are some on both sides: columns in another order would fit by their number as
well, and everything after that would be wrong without a word.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from headrace_engines.data.options import Found
from headrace_engines.errors import DataError
from headrace_engines.near import near
from headrace_engines.spec import ANY, TensorSpec

_MOST_NAMES: Final = 12

Chosen = Mapping[str, tuple[str, ...]]
"""By input the names of its columns, in its order; of arrays just one."""


def chosen(found: Found, inputs: Sequence[TensorSpec], told: Chosen, known: Sequence[str]) -> Chosen:
    """Return what each input takes.

    `told` is what a person said of that; `known` are the names of the columns that the model's one matrix
    was fitted on, in its order, where its source tells. Raises DataError naming what is missing.
    """
    for name in told:
        if name not in {tensor.name for tensor in inputs}:
            raise DataError(
                f"--columns {name}=…: the model has no input {name!r}; "
                f"it has {listed(tensor.name for tensor in inputs)}"
            )
    return _of_table(found, inputs, told, known) if found.is_table else _of_arrays(found, inputs, told)


def listed(names: Iterable[object]) -> str:
    """Return some of the names, for a complaint."""
    told = [repr(name) for name in names]
    rest = len(told) - _MOST_NAMES
    return ", ".join(told[:_MOST_NAMES]) + (f" and {rest} more" if rest > 0 else "")


def _is_single(tensor: TensorSpec) -> bool:
    """Whether one column is all that an input takes."""
    return math.prod(tensor.dims) in (1, ANY)


def _of_arrays(found: Found, inputs: Sequence[TensorSpec], told: Chosen) -> Chosen:
    if len(inputs) == len(found.arrays) == 1 and not told:
        return {inputs[0].name: tuple(found.arrays)}
    taken = {tensor.name: tuple(told.get(tensor.name, (tensor.name,))) for tensor in inputs}
    for name, arrays in taken.items():
        if len(arrays) > 1:
            raise DataError(
                f"{found.name}: input {name!r} takes one array, and --columns names {listed(arrays)}"
            )
        if arrays[0] not in found.arrays:
            raise DataError(
                f"{found.name}: there is no array {arrays[0]!r} for input {name!r}; "
                f"it holds {listed(found.arrays)}{_meant(arrays[0], found.arrays)}"
            )
    return taken


def _of_table(found: Found, inputs: Sequence[TensorSpec], told: Chosen, known: Sequence[str]) -> Chosen:
    """Return each input's columns: those that were named, the one of its name, or what is left for it."""
    taken: dict[str, tuple[str, ...]] = {}
    for tensor in inputs:
        if tensor.name in told:
            taken[tensor.name] = tuple(told[tensor.name])
        elif tensor.name in found.arrays and (_is_single(tensor) or found.arrays[tensor.name].ndim > 1):
            taken[tensor.name] = (tensor.name,)
    used = {name for names in taken.values() for name in names}
    left = tuple(name for name in found.arrays if name not in used)
    untaken = [tensor for tensor in inputs if tensor.name not in taken]
    if len(untaken) > 1:
        raise DataError(
            f"{found.name}: which columns do the inputs {listed(tensor.name for tensor in untaken)} take? "
            f"Give them as --columns INPUT=COLUMN,…; there are {listed(found.arrays)}"
        )
    for tensor in untaken:
        taken[tensor.name] = _left_for(found, inputs, tensor, left, known)
    for name in (name for names in taken.values() for name in names):
        if name not in found.arrays:
            raise DataError(
                f"{found.name}: there is no column {name!r}; "
                f"there are {listed(found.arrays)}{_meant(name, found.arrays)}"
            )
    return taken


def _left_for(
    found: Found,
    inputs: Sequence[TensorSpec],
    tensor: TensorSpec,
    left: tuple[str, ...],
    known: Sequence[str],
) -> tuple[str, ...]:
    """Return the columns of an input whose own name is that of none: by the names that the source knows."""
    if not found.has_names or any(found.arrays[name].ndim > 1 for name in left):
        return left
    if len(inputs) == 1 and known and len(known) == math.prod(tensor.dims):
        return _by_name(found, tensor, left, known)
    if len(inputs) > 1 and _is_single(tensor):
        raise DataError(
            f"{found.name}: there is no column {tensor.name!r}, which the model takes"
            f"{_meant(tensor.name, left)}; there are {listed(found.arrays)}; {_renamed(tensor)}"
        )
    return left


def _by_name(found: Found, tensor: TensorSpec, left: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    # LightGBM writes spaces in names as underscores.
    held = {name.replace(" ", "_"): name for name in left} | {name: name for name in left}
    missing = [name for name in known if name not in held]
    if not missing:
        return tuple(held[name] for name in known)
    unknown = [name for name in left if name not in known]
    if len(missing) == len(known):
        raise DataError(
            f"{found.name}: none of its columns has the name of one that the model was fitted on; "
            f"it has {listed(left)}, and the model takes {listed(known)}; {_renamed(tensor)}"
        )
    raise DataError(
        f"{found.name}: there is no column {missing[0]!r}, on which the model was fitted"
        f"{_meant(missing[0], unknown)}; it lacks {listed(missing)} and has besides "
        f"{listed(unknown) or 'none'}; {_renamed(tensor)}"
    )


def _renamed(tensor: TensorSpec) -> str:
    return (
        f"name them as the model does, or say which it takes, in its order: --columns {tensor.name}=COLUMN,…"
    )


def _meant(name: str, names: Collection[str]) -> str:
    """Return a hint at the name that was probably meant; letters of another case count as a slip first."""
    alike = [other for other in names if other.casefold() == name.casefold()] or near(name, names)
    return "".join(f" (did you mean {other!r}?)" for other in alike[:1])
