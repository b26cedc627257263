"""Who ends a script whose parent is gone before it has become an actor?

An actor sees the end of its parent's line. A script that still loads what it needs has none, so from the import of this package
until `run` a thread waits for the end of the process that has started it.
"""

from __future__ import annotations

import os
import select
import signal
import threading

_own_end: int | None = None
"""The end of a pipe whose other end the thread holds: closed, it ends."""


def begin() -> None:
    """Watches, where the kernel and the rights of this process allow it."""
    global _own_end
    try:
        parent = os.pidfd_open(os.getppid())
    except (AttributeError, OSError):
        return  # in a namespace of its own its parent can't be seen
    their_end, _own_end = os.pipe()
    threading.Thread(target=_watch, args=(parent, their_end), name="teamster-boot", daemon=True).start()


def end() -> None:
    """The lines are up: they tell from now on."""
    global _own_end
    if _own_end is not None:
        os.close(_own_end)
        _own_end = None


def _watch(parent: int, their_end: int) -> None:
    poll = select.poll()
    poll.register(parent, select.POLLIN)
    poll.register(their_end, select.POLLIN)
    ended = {descriptor for descriptor, _ in poll.poll()}
    os.close(parent)
    os.close(their_end)
    if ended == {parent}:
        # It has no grace: it is nobody's actor yet. What it has started is of its process group.
        if os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)


__all__ = ["begin", "end"]
