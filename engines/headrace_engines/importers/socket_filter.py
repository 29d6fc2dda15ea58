"""Has the kernel refuse this process every socket, and the ways around that.

A filter of system calls takes no rights to install, so it works where no namespace can be made, as in
most containers. It also bars local sockets, which are files: whoever reaches a container engine's may do
anything. Calls that could act through another process, or read it, are refused with them, and those by which
a process leaves its group, and so would outlive it.
"""

from __future__ import annotations

import ctypes
import errno
import platform
from dataclasses import dataclass
from typing import Final

_SET_NO_NEW_PRIVILEGES: Final = 38
_SET_SECCOMP: Final = 22
_FILTER_MODE: Final = 2

_LOAD: Final = 0x20
_JUMP_IF_EQUAL: Final = 0x15
_JUMP_IF_AT_LEAST: Final = 0x35
_RETURN: Final = 0x06
_ALLOW: Final = 0x7FFF0000
_REFUSE: Final = 0x00050000 | errno.EPERM
_END_PROCESS: Final = 0x80000000
_NUMBER_AT: Final = 0
_ARCHITECTURE_AT: Final = 4
_OTHER_TABLE: Final = 0x40000000
"""From here on, x86-64 has the numbers of another table of system calls, which nobody uses."""


@dataclass(frozen=True, slots=True)
class _Machine:
    """What a kind of processor is called in a filter, and the numbers of the calls that are refused.

    These are socket, io_uring_setup, which makes sockets of its own, ptrace, process_vm_readv,
    process_vm_writev, pidfd_getfd, setsid and setpgid.
    """

    architecture: int
    refused: tuple[int, ...]


_MACHINES: Final = {
    "x86_64": _Machine(0xC000003E, (41, 425, 101, 310, 311, 438, 112, 109)),
    "aarch64": _Machine(0xC00000B7, (198, 425, 117, 270, 271, 438, 157, 154)),
}


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("if_true", ctypes.c_uint8),
        ("if_false", ctypes.c_uint8),
        ("value", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(_Instruction)))


def refuse_sockets() -> None:
    """Install the filter, for this process and all that it starts; OSError if the system has none."""
    machine = _MACHINES.get(platform.machine())
    library = ctypes.CDLL(None, use_errno=True)
    if machine is None or not hasattr(library, "prctl"):
        raise OSError(errno.ENOSYS, "no filter of system calls is known for this system")
    instructions = _instructions(machine)
    program = _Program(len(instructions), (_Instruction * len(instructions))(*instructions))
    if library.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0) or library.prctl(
        _SET_SECCOMP, _FILTER_MODE, ctypes.byref(program), 0, 0
    ):
        raise OSError(ctypes.get_errno(), "the system takes no filter of system calls")


def _instructions(machine: _Machine) -> list[_Instruction]:
    """Return the filter: each comparison jumps over what follows to one of the two ends."""
    refused = machine.refused
    return [
        _Instruction(_LOAD, 0, 0, _ARCHITECTURE_AT),
        _Instruction(_JUMP_IF_EQUAL, 1, 0, machine.architecture),
        _Instruction(_RETURN, 0, 0, _END_PROCESS),
        _Instruction(_LOAD, 0, 0, _NUMBER_AT),
        _Instruction(_JUMP_IF_AT_LEAST, len(refused) + 1, 0, _OTHER_TABLE),
        *(
            _Instruction(_JUMP_IF_EQUAL, len(refused) - position, 0, number)
            for position, number in enumerate(refused)
        ),
        _Instruction(_RETURN, 0, 0, _ALLOW),
        _Instruction(_RETURN, 0, 0, _REFUSE),
    ]
