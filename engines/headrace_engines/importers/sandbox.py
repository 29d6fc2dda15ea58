"""Takes from this process what the opening of a model needs none of: the network, and to outlive its parent.

The kernel refuses it sockets, and where that is allowed it also leaves for a network of its own with
nothing in it: by an administrator's rights, or those in a user namespace that it makes for itself. Either
of these bars the way back, and to the memory and environment of the parent.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from headrace_engines.importers import socket_filter

_NEW_USER: Final = 0x10000000
_NEW_NETWORK: Final = 0x40000000
_SET_PARENT_DEATH_SIGNAL: Final = 1
_SET_NO_NEW_PRIVILEGES: Final = 38
_CAPABILITIES_VERSION: Final = 0x20080522
_FILE_RIGHTS: Final = 0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH


def leave_network() -> str:
    """Give up the network, in this process, which must have one thread, and in all that it starts.

    Returns "" if that was done, and otherwise why it could not be.
    """
    reason = _leave_namespace()
    try:
        socket_filter.refuse_sockets()
    except OSError as error:
        return reason and f"{reason}, and {error.strerror}"
    return ""


def be_killed_first() -> None:
    """Have the system end this process before its parent where memory runs out."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def end_with(parent: int) -> None:
    """Have the system end this process as soon as the thread of process `parent` that started it ends.

    To be called last: a change of rights would make the system forget it.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "prctl"):
        library.prctl(_SET_PARENT_DEATH_SIGNAL, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:  # it ended before it was asked for
        os.kill(os.getpid(), signal.SIGKILL)


def _leave_namespace() -> str:
    """Leave for a network with nothing in it; returns why that could not be done."""
    if not hasattr(ctypes.CDLL(None), "unshare"):
        return "this system has no network namespaces"
    reason = ""
    for leave in (_as_root, _as_user) if os.getuid() == 0 else (_as_user,):
        reason = _tried(leave)
        if not reason:
            leave()
            break
    return reason


def _tried(way: Callable[[], None]) -> str:
    """Return why a copy of this process could not go this way; there is none back from half of it."""
    reading, writing = os.pipe()
    copy = os.fork()
    if not copy:
        try:
            way()
        except OSError as error:
            os.write(writing, (error.strerror or str(error)).lower().encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as told:
        reason = told.read().decode()
    os.waitpid(copy, 0)
    return reason


def _as_user() -> None:
    """Leave for a network of a new user namespace, in which this process's user keeps its number."""
    user, group = os.getuid(), os.getgid()
    _unshare(_NEW_USER | _NEW_NETWORK)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")


def _as_root() -> None:
    """Leave for a new network by an administrator's rights, and lay those down, which would lead back.

    The right to read and write anybody's files stays: a source and a build may be another user's.
    """
    _unshare(_NEW_NETWORK)
    library = ctypes.CDLL(None, use_errno=True)
    _checked(library.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES_VERSION, 0)
    kept = (ctypes.c_uint32 * 6)(_FILE_RIGHTS, _FILE_RIGHTS, 0, 0, 0, 0)
    _checked(library.capset(header, kept))


def _unshare(flags: int) -> None:
    _checked(ctypes.CDLL(None, use_errno=True).unshare(flags))


def _checked(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
