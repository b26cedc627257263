"""What does a program hold to talk to another actor?"""

from __future__ import annotations

import asyncio
from typing import Any

from . import _actor, errors
from ._context import OpenedContext
from ._ident import Aid, Canceller, CancelRequest
from ._line import Line


FRESH_LINES = 4
"""How often a call may meet a line that is just being closed."""


class Portal:
    """An address of another actor: it connects at its first call. It travels as an argument or a result, too."""

    def __init__(self, aid: Aid, addrs: list[Any]) -> None:
        self.aid = aid
        """Whom it leads to."""
        self._addrs = addrs

    @classmethod
    def of(cls, value: Any) -> Portal:
        """The portal that came as an argument or a result: there it is `[aid, addresses]`."""
        aid, addrs = value
        return cls(Aid.read(aid), addrs or [])

    def __teamster__(self) -> list[Any]:
        return [self.aid.__teamster__(), self._addrs]

    def __repr__(self) -> str:
        return f"Portal({self.aid})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Portal) and self.aid == other.aid

    def __hash__(self) -> int:
        return hash(self.aid)

    async def _line(self) -> Line:
        return await _actor.this().line_to(self.aid, self._addrs)

    async def call(self, path: str, *args: Any, timeout: float | None = None) -> Any:
        """Calls an endpoint of that actor by its path, and gives its result.

        `timeout`: seconds that it may take, by its own clock; the caller's own deadline counts too. Cancelled, the call
        over there is cancelled as well, and nobody waits for that.

        Raises:
            RemoteError: it failed.
            Cancelled: somebody else has cancelled it.
            TeamsterError: any other of `teamster.errors`, by what went wrong.
        """
        deadline = _deadline(timeout)
        for _ in range(FRESH_LINES):
            line = await self._line()
            try:
                return await line.call(path, args, deadline)
            except errors.NotStarted:
                if not line.was_idle:
                    raise
        raise errors.NotStarted(path, self.aid, "its line closed each time before the call could leave")

    def open_context(self, path: str, *args: Any, timeout: float | None = None) -> OpenedContext:
        """Opens a context with an endpoint of that actor: `async with portal.open_context("module::function") as ctx`."""
        return OpenedContext(self._line, path, args, _deadline(timeout))


class ContextHandle:
    """What lets whoever has it cancel a context of other actors: it travels, as a portal does."""

    def __init__(self, holder: Portal, number: int, endpoint: str) -> None:
        self.holder = holder
        """The actor on whose side of the context it was made."""
        self._number = number
        self.endpoint = endpoint
        """The context's path."""

    @classmethod
    def of(cls, value: Any) -> ContextHandle:
        """The handle that came as an argument or a result: there it is a dict."""
        return cls(Portal.of(value["holder"]), value["number"], value["endpoint"])

    def __teamster__(self) -> dict[str, Any]:
        return {"holder": self.holder, "number": self._number, "endpoint": self.endpoint}

    async def cancel(self) -> None:
        """Cancels the context, and waits until its task has ended, no longer than its grace.

        Raises:
            TeamsterError: its holder can't be asked, or the task goes on.
        """
        canceller = Canceller(_actor.this().aid, CancelRequest.CONTEXT)
        await self.holder.call("teamster.cancel_context", self._number, canceller)


def _deadline(timeout: float | None) -> float | None:
    inherited = _actor.deadline()
    if timeout is None:
        return inherited
    own = asyncio.get_running_loop().time() + timeout
    return own if inherited is None else min(own, inherited)


def parent() -> Portal:
    """The actor that has started this one.

    Raises:
        NotAnActor: this process is none.
    """
    spec = _actor.this().spec
    return Portal(spec.parent, spec.parent_addrs)


def root() -> Portal:
    """The root of this actor's tree.

    Raises:
        NotAnActor: this process is none.
    """
    spec = _actor.this().spec
    return Portal(spec.root, spec.root_addrs)


def this_actor() -> Portal:
    """This very actor, to be sent to others.

    Raises:
        NotAnActor: this process is none.
    """
    actor = _actor.this()
    has_socket = not actor.spec.is_worker and "Uds" in actor.spec.transports
    return Portal(actor.aid, [{"Uds": actor.spec.socket_path}] if has_socket else [])
