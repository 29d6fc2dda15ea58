"""Takes from this process what the opening of a model needs none of: the network, and to outlive its parent.

The kernel refuses it sockets, and where that is allowed it also leaves for a network of its own with
nothing in it: by an administrator's rights, or those in a user namespace that it makes for itself. Either
of these bars the way back, and to the memory and environment of the user's other processes. Where no
namespace can be made, as in most containers, the parent bars the way to its own.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from headrace_engines.importers import socket_filter

_NEW_USER: Final = 0x10000000
_NEW_NETWORK: Final = 0x40000000
_SET_PARENT_DEATH_SIGNAL: Final = 1
_GET_DUMPABLE: Final = 3
_SET_DUMPABLE: Final = 4
_SET_NO_NEW_PRIVILEGES: Final = 38
_CAPABILITIES_VERSION: Final = 0x20080522
_FILE_RIGHTS: Final = 0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH

_closing: Final = threading.Lock()
_closed: Final[list[int]] = []
"""What the process was before each block that goes on in which it is closed to others."""


def leave_network() -> str:
    """Give up the network, in this process, which must have one thread, and in all that it starts.

    Returns "" if nothing of it is left, and otherwise with what it goes on, and why.
    """
    reason = _leave_namespace()
    try:
        socket_filter.refuse_sockets()
    except OSError as error:
        return (
            reason and f"with the network, as the system lets nobody lay it down: {reason}, {error.strerror}"
        )
    return reason and f"without sockets, and yet in reach of its user's other processes: {reason}"


@contextmanager
def closed_to_others() -> Iterator[None]:
    """Keep what runs under the same user from this process's memory, environment and files, in the block.

    Without a namespace nothing else would: they are open to all processes of a user.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "prctl"):
        yield
        return
    with _closing:
        _closed.append(library.prctl(_GET_DUMPABLE, 0, 0, 0, 0))
        library.prctl(_SET_DUMPABLE, 0, 0, 0, 0)
    try:
        yield
    finally:
        with _closing:
            before = _closed.pop()  # of several, the one that began first found it open
            library.prctl(_SET_DUMPABLE, before, 0, 0, 0)


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
