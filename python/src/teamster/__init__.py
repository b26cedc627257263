"""A Python program as an actor of a teamster tree: called, streaming, failing and cancelled as any other.

    import teamster

    @teamster.rpc
    async def square(n: int) -> int:
        return n * n

    teamster.run()

A Rust program starts it by `nursery.actor("maths").python("maths.py").start().await?` and calls `maths::square`.
"""

from __future__ import annotations

from . import _boot_watch, sync
from ._actor import is_child, run, serve
from ._context import Context, OpenedContext, Stream
from ._ident import Aid, Canceller, CancelRequest
from ._portal import ContextHandle, Portal, parent, root, this_actor
from ._registry import context, rpc
from ._served import CURRENT as _CURRENT
from ._version import VERSION as __version__
from .errors import (
    ActorDied,
    Ambiguous,
    Cancelled,
    CodecError,
    DeadlinePassed,
    EndOfStream,
    Misused,
    NoSuchEndpoint,
    NotAnActor,
    NotExposed,
    NotStarted,
    NotStopped,
    RemoteError,
    StreamClosed,
    StreamOverrun,
    TeamsterError,
    TransportError,
    Unknown,
)


if is_child():
    _boot_watch.begin()


def canceller() -> Canceller | None:
    """Who has asked for the end of this call, or of the whole actor. It is known at once, however busy the loop is."""
    from . import _actor

    served = _CURRENT.get()
    if served is not None and served.asked is not None:
        return served.asked
    return None if _actor._actor is None else _actor._actor.canceller


def is_cancelled() -> bool:
    """Whether the end of this call, or of the whole actor, was asked for: for loops that do not `await`."""
    return canceller() is not None


__all__ = [
    "ActorDied",
    "Aid",
    "Ambiguous",
    "CancelRequest",
    "Cancelled",
    "Canceller",
    "CodecError",
    "Context",
    "ContextHandle",
    "DeadlinePassed",
    "EndOfStream",
    "Misused",
    "NoSuchEndpoint",
    "NotAnActor",
    "NotExposed",
    "NotStarted",
    "NotStopped",
    "OpenedContext",
    "Portal",
    "RemoteError",
    "Stream",
    "StreamClosed",
    "StreamOverrun",
    "TeamsterError",
    "TransportError",
    "Unknown",
    "__version__",
    "canceller",
    "context",
    "is_cancelled",
    "is_child",
    "parent",
    "root",
    "rpc",
    "run",
    "serve",
    "sync",
    "this_actor",
]
