"""Rows that stand in a GPU's memory already, such as a tensor in CUDA shared memory.

An engine on the same GPU copies them there from place to place; whoever else needs them reads them into
the host's memory first.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple


class DeviceRows(ABC):
    """The bytes of some rows of one input, one row after the other.

    Their memory is there for as long as anybody holds on to this object, which has to be longer than the GPU
    takes to read them.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def gpu(self) -> int:
        """The index of the GPU."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of bytes."""

    @abstractmethod
    def address(self) -> int:
        """Return where they begin, in the GPU's present context.

        Raises InputError where they are not there any more, EngineSpoilt or DeviceError if the GPU fails.
        """

    @abstractmethod
    def read(self) -> bytes:
        """Return a copy in the host's memory, once it is there. Raises as `address` does."""


class Placed(NamedTuple):
    """Where rows belong in a batch: in the input at this position, from byte `begin` on."""

    position: int
    begin: int
    rows: DeviceRows
