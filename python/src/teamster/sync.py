"""What does a plain function hold, which runs in a thread and may block? The same as an `async def`, without `await`.

Each call here waits for the event loop's thread, so none may be made on that one. Whoever is cancelled meanwhile gets
`teamster.Cancelled`, at each such call from then on.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Coroutine, Iterator
from types import TracebackType
from typing import Any, TypeVar

from . import _actor, _context, _portal, errors
from ._ident import Aid
from ._served import CURRENT

T = TypeVar("T")


def _wait(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs it on the loop's thread, and waits here."""
    actor = _actor.this()
    served = CURRENT.get()
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        running = None
    if running is not None:
        coroutine.close()
        raise errors.Misused("this would block the event loop: in an `async def`, use `teamster` without `sync`")
    context = contextvars.copy_context()

    async def owned() -> T:
        if served is None:
            return await coroutine
        if served.canceller is not None:
            coroutine.close()
            raise errors.Cancelled(served.canceller)
        task = actor.loop.create_task(coroutine, context=context)
        served.inner.add(task)
        try:
            return await task
        except asyncio.CancelledError:
            if served.canceller is not None:
                raise errors.Cancelled(served.canceller) from None
            raise
        finally:
            served.inner.discard(task)

    return asyncio.run_coroutine_threadsafe(owned(), actor.loop).result()


class Stream:
    """The stream of a context: what this side sends the other receives, in order."""

    def __init__(self, stream: _context.Stream) -> None:
        self._stream = stream

    def send(self, value: Any) -> None:
        """As `teamster.Stream.send`."""
        _wait(self._stream.send(value))

    def recv(self) -> Any:
        """As `teamster.Stream.recv`."""
        return _wait(self._stream.recv())

    def finish(self) -> None:
        """Sends no more, and still reads."""
        _wait(self._stream.finish())

    def close(self) -> None:
        """Sends no more, and does not read any more either."""

        async def close() -> None:
            self._stream.close()

        _wait(close())

    def __iter__(self) -> Iterator[Any]:
        while True:
            try:
                yield self.recv()
            except errors.EndOfStream:
                return

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, _kind: type[BaseException] | None, raised: BaseException | None, _t: TracebackType | None) -> None:
        if not isinstance(raised, errors.Cancelled):
            self.close()


class Context:
    """The callee's side of a context."""

    def __init__(self, context: _context.Context, _loop: asyncio.AbstractEventLoop) -> None:
        self._context = context

    def started(self, value: Any = None) -> None:
        """Says the first word, for which the opener waits: once, before the stream."""
        _wait(self._context.started(value))

    def open_stream(self, *, overrun_after: float = _context.OVERRUN_AFTER) -> Stream:
        """As `teamster.Context.open_stream`."""

        async def open_stream() -> _context.Stream:
            return self._context.open_stream(overrun_after=overrun_after)

        return Stream(_wait(open_stream()))

    @property
    def opener(self) -> Aid:
        """Who has opened it."""
        return self._context.line.peer


class Portal:
    """Another actor, for code that may block."""

    def __init__(self, portal: _portal.Portal) -> None:
        self._portal = portal

    @property
    def aid(self) -> Aid:
        """Whom it leads to."""
        return self._portal.aid

    def call(self, path: str, *args: Any, timeout: float | None = None) -> Any:
        """As `teamster.Portal.call`."""
        return _wait(self._portal.call(path, *args, timeout=timeout))


def parent() -> Portal:
    """The actor that has started this one."""
    return Portal(_portal.parent())


def root() -> Portal:
    """The root of this actor's tree."""
    return Portal(_portal.root())
