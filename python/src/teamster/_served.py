"""How is a call of another actor run? As a task, or in a thread; and how it ends."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from . import errors
from ._ident import Canceller, CancelRequest
from ._registry import CONTEXT, STREAM, Endpoint, place_of

if TYPE_CHECKING:
    from ._context import Context
    from ._first_step import FirstSteps
    from . import sync
    from ._line import Line
    from ._threads import Job

CURRENT: contextvars.ContextVar[Served | None] = contextvars.ContextVar("teamster_dialog", default=None)
"""The dialog that this code serves."""


class Served:
    """One dialog that runs here, or whose arguments are on their way (no endpoint yet)."""

    __slots__ = (
        "after",
        "asked",
        "canceller",
        "context",
        "deadline",
        "dialog",
        "endpoint",
        "has_begun",
        "inner",
        "is_over",
        "line",
        "task",
        "timer",
    )

    def __init__(self, line: Line, dialog: int) -> None:
        self.line = line
        self.dialog = dialog
        self.endpoint: Endpoint | None = None
        self.after: float | None = None
        """Seconds that its caller gave it."""
        self.deadline: float | None = None
        """The same as a time of the loop's clock."""
        self.asked: Canceller | None = None
        """Who asked for its end, as the control thread knows at once."""
        self.canceller: Canceller | None = None
        self.context: Context | None = None
        self.has_begun = False
        self.is_over = False
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.inner: set[asyncio.Task[Any] | Job] = set()
        """What its thread waits for, or its turn for one."""

    def expire(self, after: float) -> None:
        """It is cancelled in so many seconds, unless it is over by then."""
        self.after = after
        self.deadline = self.line.loop.time() + after
        self._arm(after)

    def _arm(self, after: float) -> None:
        self.timer = self.line.loop.call_later(after, self._late, self.line.actor.stood)

    def _late(self, stood: float) -> None:
        """The deadline has passed, if the whole tree has not stood still meanwhile."""
        more = self.line.actor.stood - stood
        if more > 0:
            self._arm(more)
        elif not self.is_over:
            self.cancel(Canceller(self.line.actor.aid, CancelRequest.DEADLINE))

    def cancel(self, canceller: Canceller) -> None:
        """Cancels the task. Asking again is asking once."""
        if self.asked is None:
            self.asked = canceller
        if self.canceller is not None or self.is_over:
            return
        self.canceller = canceller
        if self.context is not None:
            self.context.on_cancel(canceller)
        if self.endpoint is not None and not self.endpoint.is_async:
            for task in self.inner:
                task.cancel()
        elif self.has_begun and self.task is not None:
            self.task.cancel()

    @property
    def cancelled(self) -> dict[str, Any]:
        """What it ends with if it was cancelled, or cancels itself."""
        canceller = self.canceller or Canceller(self.line.actor.aid, CancelRequest.ITSELF)
        if canceller.request is CancelRequest.DEADLINE and self.after is not None:
            return {"Deadline": {"after": errors.duration(self.after)}}
        return {"Cancelled": canceller.__teamster__()}


async def run_served(served: Served, args: list[Any]) -> None:
    """The whole of one dialog's task."""
    line = served.line
    if served.asked is not None:  # before its first step
        served.canceller = served.asked
        line.failed(served, served.cancelled)
        return
    served.has_begun = True
    if served.task is None:  # it is being made
        served.task = asyncio.current_task()
    CURRENT.set(served)
    endpoint = served.endpoint
    assert endpoint is not None, "it has been resolved"
    try:
        if served.context is None and endpoint.is_async:
            value = await endpoint.function(*args)
        else:
            value = await _by_kind(served, endpoint, args)
    except asyncio.CancelledError:
        line.failed(served, served.cancelled)
    except (SystemExit, KeyboardInterrupt):
        raise
    except errors.Cancelled as cancelled:
        # In a thread, that is how it hears of its own cancel.
        is_own = served.canceller is not None and cancelled.canceller == served.canceller
        line.failed(served, served.cancelled if is_own else errors.failed(cancelled, line.actor.aid, place_of(endpoint.function)))
    except BaseException as error:
        line.failed(served, errors.failed(error, line.actor.aid, place_of(endpoint.function)))
    else:
        line.returned(served, endpoint, value)


async def _by_kind(served: Served, endpoint: Endpoint, args: list[Any]) -> Any:
    context = served.context
    actor = served.line.actor
    if context is None:
        value = await actor.in_thread(served, endpoint.function, args)
        return await _ran(served, value) if inspect.iscoroutine(value) else value
    context.acknowledge()
    if endpoint.kind == STREAM and endpoint.is_async:
        return await _stream(context, endpoint, args)
    if endpoint.is_async:
        value = await endpoint.function(context, *args)
    else:
        from . import sync

        # Where a decorator stands around an `async def`, that is whose context it is.
        is_async_within = inspect.iscoroutinefunction(inspect.unwrap(endpoint.function))
        own = context if is_async_within else sync.Context(context, served.line.loop)
        if endpoint.kind == STREAM:
            return await actor.in_thread(served, _stream_in_thread, [own, endpoint, args])
        assert endpoint.kind == CONTEXT
        value = await actor.in_thread(served, endpoint.function, [own, *args])
        if inspect.iscoroutine(value):
            value = await _ran(served, value)
    if not context.link.has_started:
        raise errors.Misused("the context returned without `started`: its opener waits for that first word")
    return value


async def _ran(served: Served, coroutine: Coroutine[Any, Any, Any]) -> Any:
    """What looked like a plain function has given a coroutine: a decorator stands around an `async def`."""
    if served.canceller is not None:  # while it was made
        coroutine.close()
        raise errors.Cancelled(served.canceller)
    task = served.line.loop.create_task(coroutine)
    served.inner.add(task)
    try:
        return await task
    finally:
        served.inner.discard(task)


async def _stream(context: Context, endpoint: Endpoint, args: list[Any]) -> None:
    """The values of an async generator, one after the other.

    The stream ends with the call, and not before: to its reader an end that comes alone is a good one.
    """
    await context.started(None)
    values = endpoint.function(*args)
    try:
        stream = context.open_stream()
        async for value in values:
            try:
                await stream.send(value)
            except errors.StreamClosed:
                break  # its reader has seen enough
    finally:
        await values.aclose()


def _stream_in_thread(context: sync.Context, endpoint: Endpoint, args: list[Any]) -> None:
    """The same of a plain generator."""
    context.started(None)
    values = endpoint.function(*args)
    try:
        stream = context.open_stream()
        for value in values:
            try:
                stream.send(value)
            except errors.StreamClosed:
                break
    finally:
        values.close()
