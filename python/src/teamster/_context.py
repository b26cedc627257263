"""What do both sides hold of two linked tasks?"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from . import _codec, _frames, errors
from ._credit import FIRST_WINDOW_BYTES
from ._ident import Canceller, CancelRequest
from ._link import Link, Room

if TYPE_CHECKING:
    from ._line import Line, Outgoing
    from ._served import Served

PIECE_BYTES = 64 * 1024
HEADER_BYTES = 64
"""More than a frame's header has."""
TURN_BYTES = 64 * 1024
"""What a task sends before others have their turn, and what an item counts besides its own bytes."""
ITEM_BYTES = 256
OVERRUN_AFTER = 1.0
"""Seconds that a full window may wait for a peer that has not opened its stream."""


def too_long(payload: bytes, limit: int) -> str:
    """What is wrong with a payload that no frame may have."""
    return f"its {len(payload)} bytes and a header are over the limit of {limit} bytes a message: send it in parts"


class _Side:
    """What is the same on both sides: the link, its line, and who waits."""

    def __init__(self, line: Line, dialog: int, path: str, *, is_callee: bool) -> None:
        self.line = line
        self.dialog = dialog
        self.path = path
        self.link = Link(is_callee=is_callee)
        self._waiting: list[asyncio.Future[None]] = []

    def wake(self) -> None:
        """Something has changed: whoever waits looks again."""
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for future in waiting:
                if not future.done():
                    future.set_result(None)

    async def changed(self) -> None:
        """Waits for the next change."""
        future = self.line.loop.create_future()
        self._waiting.append(future)
        await future

    def write(self, header: list[Any]) -> None:
        self.line.write_of(self.dialog, _frames.frame(header))

    def grant(self) -> None:
        """Lets the peer send more, if it is time to."""
        up_to = self.link.credit()
        if up_to is not None and not self.line.is_closed:
            self.write([_frames.CREDIT, self.dialog, up_to])

    def open_stream(self, *, overrun_after: float = OVERRUN_AFTER) -> Stream:
        """Opens this side's stream: items are sent and read from now on. Once in a context.

        `overrun_after`: seconds until `send` fails with `StreamOverrun` where the window is full and the other side
        has not opened its stream. 0: at once.

        Raises:
            Misused: it was opened before, before `started`, or after the context's end.
        """
        self.link.open_stream()
        if not self.link.end and not self.line.is_closed:
            self.write([_frames.OPEN, self.dialog])
        self.grant()
        return Stream(self, overrun_after)

    async def closed(self) -> None:
        """Nobody takes an item any more: raises why."""
        raise errors.StreamClosed(self.path, self.line.peer)

    def allow_overruns(self) -> None:
        """What this side does not read in time is dropped, the oldest first, instead of holding up its sender."""
        self.link.allow_overruns()
        self.grant()

    def stop(self, how: int) -> None:
        told = self.link.stop(how)
        if told is not None and not self.line.is_closed:
            self.write([_frames.STOP, self.dialog, told])
        self.grant()


class Stream:
    """The stream of a context, as one side has it: what it sends the other receives, in order.

    Leaving `async with` ends both directions; `finish()` ends what this side sends alone. `async for` gives the items
    of the other side until it has finished, or its task has ended.
    """

    def __init__(self, side: _Side, overrun_after: float) -> None:
        self._side = side
        self._overrun_after = overrun_after
        self._turn = asyncio.Lock()
        self._rest: memoryview | None = None
        self._since_turn_bytes = 0

    async def send(self, value: Any) -> None:
        """Sends an item, as soon as the other side takes it.

        Cancelled, the item may have been sent; one that had begun to leave in pieces is sent to its end.

        Raises:
            StreamClosed: the other side reads no more, or this one has finished.
            StreamOverrun: the window is full, and the other side has opened no stream.
            CodecError: the value can't be sent.
        """
        side = self._side
        try:
            data = _codec.pack(value)
        except _codec.CodecError as error:
            raise errors.CodecError(side.path, "the stream's item", str(error)) from None
        if len(data) + HEADER_BYTES > side.line.limit:
            raise errors.CodecError(side.path, "the stream's item", too_long(data, side.line.limit))
        if self._rest is None and not self._turn.locked():
            room = side.link.room(len(data))
            if room is Room.NOW:
                head = _frames.head_of(_frames.YIELD, side.dialog, True, 0)
                side.line.write_of(side.dialog, _frames.framed(head, data))
                if side.line.is_paused:
                    await side.line.drained()
                self._since_turn_bytes += len(data) + ITEM_BYTES
                if self._since_turn_bytes > TURN_BYTES:
                    self._since_turn_bytes = 0
                    await asyncio.sleep(0)  # others have their turn
                return
            if room is Room.GONE:
                await side.closed()
            if room is Room.IN_TRANSIT:
                return
        async with self._turn:
            await self._finish_item()
            await self._send(data)

    async def _send(self, data: bytes) -> None:
        side = self._side
        late_at: float | None = None
        while True:
            room = side.link.room(len(data))
            if room is Room.GONE:
                await side.closed()
            if room is Room.IN_TRANSIT:
                return
            if room is Room.NOW:
                head = _frames.head_of(_frames.YIELD, side.dialog, True, 0)
                side.line.write_of(side.dialog, _frames.framed(head, data))
                await side.line.drained()
                return
            if room is Room.PIECES:
                if side.link.sending.room <= 0:
                    await side.changed()  # cancelled here, nothing of it has left
                    continue
                self._rest = memoryview(data)
                await self._finish_item(len(data))
                return
            now = side.line.loop.time()
            late_at = now + self._overrun_after if late_at is None else late_at
            if now >= late_at:
                raise errors.StreamOverrun(side.path, side.line.peer, side.dialog, FIRST_WINDOW_BYTES)
            with contextlib.suppress(TimeoutError):  # what has come by then counts
                async with asyncio.timeout_at(late_at):
                    await side.changed()

    async def _finish_item(self, whole: int | None = None) -> None:
        """Sends what is left of an item that goes piece by piece."""
        side = self._side
        while self._rest is not None:
            if not side.link.is_heard or side.line.is_closed:
                self._rest = None
                return
            taken = side.link.sending.take_up_to(min(len(self._rest), PIECE_BYTES))
            if not taken:
                await side.changed()
                continue
            piece, rest = self._rest[:taken], self._rest[taken:]
            is_first = whole is not None and len(self._rest) == whole
            kind, named = (_frames.YIELD, True) if is_first else (_frames.PART, False)
            self._rest = rest if len(rest) else None
            side.line.write_of(side.dialog, _frames.framed(_frames.head_of(kind, side.dialog, named, len(rest)), piece))
            await side.line.drained()

    async def recv(self) -> Any:
        """The next item of the other side. Cancelled, nothing is lost.

        Raises:
            EndOfStream: it has finished, or its task has ended; so it says from then on.
            CodecError: what came is no value.
        """
        link = self._side.link
        while True:
            try:
                is_there = link.read()
            except _codec.CodecError as error:
                raise errors.CodecError(self._side.path, "the stream's item", str(error), "Decode") from None
            if is_there:
                item = link.take()
                self._side.grant()
                return item
            if link.is_drained:
                raise errors.EndOfStream(f"{self._side.path}: the other side sends no more")
            self._side.grant()
            await self._side.changed()

    @property
    def dropped(self) -> int:
        """Items of the other side that were dropped because nobody had read them in time: see `allow_overruns`."""
        return self._side.link.dropped

    async def finish(self) -> None:
        """Sends no more, and still reads. It needs no credit."""
        async with self._turn:
            await self._finish_item()
            self._side.stop(_frames.STOP_FINISHED)

    def close(self) -> None:
        """Sends no more, and does not read any more either."""
        self._side.stop(_frames.STOP_LEFT)

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        try:
            return await self.recv()
        except errors.EndOfStream:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, _e: object, _t: TracebackType | None) -> None:
        if kind is None:
            async with self._turn:
                await self._finish_item()
        self.close()


class Context(_Side):
    """The callee's side of a context: its first word, its stream."""

    def __init__(self, line: Line, dialog: int, path: str, served: Served) -> None:
        super().__init__(line, dialog, path, is_callee=True)
        self._served = served

    def acknowledge(self) -> None:
        """The task runs."""
        self.write([_frames.START_ACK, self.dialog])

    async def started(self, value: Any = None) -> None:
        """Says the first word, for which the opener waits: once, before the stream.

        Raises:
            Misused: it was said already.
            CodecError: the value can't be sent.
        """
        try:
            payload = _codec.pack(value)
        except _codec.CodecError as error:
            raise errors.CodecError(self.path, "the first word", str(error)) from None
        if len(payload) + HEADER_BYTES > self.line.limit:
            raise errors.CodecError(self.path, "the first word", too_long(payload, self.line.limit))
        self.link.start()
        self.line.write_payload(
            lambda left: _frames.head_of(_frames.STARTED, self.dialog, True, left), self.dialog, payload
        )

    @property
    def opener(self) -> Any:
        """Who has opened it: an `Aid`."""
        return self.line.peer

    def handle(self) -> dict[str, Any]:
        """What lets whoever gets it cancel this context: sent on, it is a `ContextHandle` in Rust."""
        return self.line.actor.handle_of(self._served)

    def cancel(self) -> None:
        """Ends this context's task: `asyncio.CancelledError` at its next `await`, and its opener is told that it was us."""
        self._served.cancel(Canceller(self.line.actor.aid, CancelRequest.ITSELF))

    async def closed(self) -> None:
        if self.link.theirs_stop == _frames.STOP_BODY_OVER:
            # The opener waits for the end alone: a task that goes on sending is cancelled.
            self._served.cancel(Canceller(self.line.peer, CancelRequest.DROPPED))
            await asyncio.sleep(0)
        await super().closed()

    def on_cancel(self, canceller: Canceller) -> None:
        if canceller.request is CancelRequest.ITSELF:
            self.link.cancel()
        else:
            self.link.throw_away()  # what its clean-up sends goes on: who has cancelled grants for it, and drops it
            self.grant()
        self.wake()

    def on_over(self) -> None:
        self.link.on_end()
        self.wake()


class OpenedContext(_Side):
    """The opener's side of a context: `async with portal.open_context("module::function", args…) as ctx`.

    `first` is the other side's first word. Leaving the block waits for the other task's end: its failure is raised
    there. A failure of the block cancels the other task, and wins.
    """

    def __init__(self, connect: Any, path: str, args: tuple[Any, ...], deadline: float | None) -> None:
        self._connect = connect
        self._args = args
        self._deadline = deadline
        self._path = path
        self._outgoing: Outgoing | None = None
        self._body: asyncio.Task[Any] | None = None
        self._interrupts = False
        self._value: Any = None
        self._error: BaseException | None = None
        self._problem: str | None = None
        self.first: Any = None

    async def __aenter__(self) -> OpenedContext:
        line: Line = await self._connect()
        super().__init__(line, 0, self._path, is_callee=False)
        self._outgoing = await line.open(self._path, self._args, self._deadline, self)
        self.dialog = self._outgoing.dialog
        try:
            while not self.link.has_started and not self.link.end:
                await self.changed()
        except BaseException:
            line.cancel_ours(self._outgoing, CancelRequest.DROPPED)
            raise
        if not self.link.has_started:
            raise self._error or errors.Misused("the context returned without its first word: it calls no `started`")
        if self._problem is not None:
            line.cancel_ours(self._outgoing, CancelRequest.DROPPED)
            raise errors.CodecError(self._path, "the first word", self._problem, "Decode")
        if self._error is not None and not self._is_our_doing(self._error):
            raise self._error  # it came with the first word
        self._body = asyncio.current_task()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, raised: BaseException | None, _t: object) -> bool:
        body, self._body = self._body, None
        assert self._outgoing is not None, "it was entered"
        if self._interrupts:
            self._interrupts = False
            is_ours = body is not None and body.uncancel() == 0
            if is_ours and kind is asyncio.CancelledError and self._error is not None:
                raise self._error from None
        if raised is not None:
            await self._end(CancelRequest.FAILURE if isinstance(raised, Exception) else CancelRequest.DROPPED)
            return False
        self.stop(_frames.STOP_BODY_OVER)
        try:
            while not self.link.end:
                await self.changed()
        except asyncio.CancelledError:
            await self._end(CancelRequest.DROPPED)
            raise
        if self._error is not None and not self._is_our_doing(self._error):
            raise self._error
        return False

    def _is_our_doing(self, error: BaseException) -> bool:
        """It was cancelled by us, or fails because we have left its stream, as `yes | head` does."""
        here = self.line.actor.aid
        if isinstance(error, errors.Cancelled):
            ours = error.canceller.request in (CancelRequest.CONTEXT, CancelRequest.DROPPED)
            return ours and error.canceller.aid == here
        return isinstance(error, errors.RemoteError) and error.is_stream_closed_by(here, self.path)

    async def _end(self, request: CancelRequest) -> None:
        """The other task is really over, or the grace is."""
        assert self._outgoing is not None, "it was entered"
        self.link.cancel()
        self.line.cancel_ours(self._outgoing, request)
        try:
            async with asyncio.timeout(self.line.actor.spec.grace):
                while not self.link.end:
                    await self.changed()
        except TimeoutError:
            pass  # the body's own failure says more than that

    def _interrupt(self, body: asyncio.Task[Any]) -> None:
        self._interrupts = True
        body.cancel()

    async def cancel(self) -> None:
        """Cancels the other task: the block may end well then."""
        assert self._outgoing is not None, "it was entered"
        if self.link.cancel():
            self.line.cancel_ours(self._outgoing, CancelRequest.CONTEXT)
        self.wake()

    async def result(self) -> Any:
        """What the other task has returned, once it has ended.

        Raises:
            TeamsterError: it has failed, or was cancelled.
        """
        while not self.link.end:
            await self.changed()
        if self._error is not None:
            raise self._error
        return self._value

    def on_started(self, value: Any, problem: str | None) -> None:
        self.link.on_started(self.dialog)
        self.first, self._problem = value, problem
        self.wake()

    def on_end(self, value: Any, error: BaseException | None) -> None:
        self._value, self._error = value, error
        self.link.on_end()
        is_failure = error is not None and not self.link.is_cancelled and not self._is_our_doing(error)
        if is_failure and self._body is not None:
            self._interrupt(self._body)
        self.wake()
