"""How is one connection to another actor kept moving? Frames in and out, and the dialogs on it."""

from __future__ import annotations

import asyncio
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import _codec, _frames, errors
from ._context import HEADER_BYTES, Context, OpenedContext, too_long
from ._first_step import FirstSteps
from ._frames import Violation
from ._ident import Aid, Canceller, CancelRequest
from ._peers import why_lost
from ._registry import CALL, STREAM, Endpoint, find
from ._served import Served, run_served

if TYPE_CHECKING:
    from ._actor import Actor
    from ._socket import Socket

LONG_BYTES = 32 * 1024
"""Payloads over this travel in pieces, so that others come in between."""
PIECE_BYTES = 128 * 1024
PIECES_A_TURN = 8
HIGH_WATER_BYTES = 512 * 1024
BUFFER_BYTES = 256 * 1024
MAX_DIALOGS = 16_384
MAX_ENDPOINTS = 1 << 20
PEEKED_BYTES = 4096
"""Frames over this are not copied to find their header."""

_LENGTH = struct.Struct("<I")
_PLAIN_FIELDS = {0xCC: struct.Struct(">BBB"), 0xCD: struct.Struct(">HBB"), 0xCE: struct.Struct(">IBB"), 0xCF: struct.Struct(">QBB")}
"""A dialog's id of 0x80 or more, by its first byte; and two small numbers."""
_CONTEXT_CALLED = "{} is a context: open it by `portal.open_context`"


class Outgoing:
    """A call or a context that we have open in the other actor."""

    __slots__ = ("context", "dialog", "has_begun", "path", "result")

    def __init__(self, dialog: int, path: str, result: asyncio.Future[Any], context: OpenedContext | None) -> None:
        self.dialog = dialog
        self.path = path
        self.result = result
        self.context = context
        self.has_begun = False


class Incoming:
    """A payload that comes in pieces."""

    __slots__ = ("data", "header", "left")

    def __init__(self, header: list[Any], data: memoryview, left: int) -> None:
        self.header = header
        self.data = bytearray(data)
        self.left = left


class Long:
    """A payload that leaves in pieces."""

    __slots__ = ("data", "dialog", "head", "sent")

    def __init__(self, head: Callable[[int], bytes], dialog: int, data: bytes) -> None:
        self.head = head
        self.dialog = dialog
        self.data = memoryview(data)
        self.sent = 0


class Line:
    """A data line. All of it belongs to the loop's thread, but for `cancel_now`."""

    def __init__(self, actor: Actor, peer: Aid, *, is_parent: bool, connects: bool, limit: int) -> None:
        self.actor = actor
        self.peer = peer
        self.is_parent = is_parent
        self.limit = limit
        self.loop: asyncio.AbstractEventLoop = actor.loop
        self.transport: Socket | None = None
        self.is_closed = False
        self.was_idle = False
        """The other side has closed it, since nobody had used it for a while."""
        self.ended: asyncio.Future[None] = self.loop.create_future()
        # What is read.
        self._buffer = bytearray(BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._filled = 0
        self._values = _codec.reader()
        self._incoming: dict[int, Incoming] = {}
        # What is written.
        self._out: list[bytes] = []
        self._flushes = False
        self._longs: dict[int, deque[bytes | Long]] = {}
        self._turns: deque[int] = deque()
        self._pumps = False
        self.is_paused = False
        self._drained: list[asyncio.Future[None]] = []
        # Dialogs of theirs.
        self.serving: dict[int, Served] = {}
        self._fresh: list[tuple[Served, list[Any]]] = []
        """What has come, with its arguments, and has taken no step."""
        self._steps = FirstSteps(self.loop)
        self._endpoints: dict[int, Any] = {}
        self._last_start = 0
        self._tombstones: dict[int, Canceller] = {}
        self._lock = threading.Lock()
        # Dialogs of ours.
        self.calls: dict[int, Outgoing] = {}
        self._next_dialog = 1 if connects else 2
        self._paths: dict[str, int] = {}
        self._room: list[asyncio.Future[None]] = []

    # ---- the transport

    def connection_made(self, transport: Socket) -> None:
        self.transport = transport
        transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view[self._filled :] if self._filled else self._view

    def buffer_updated(self, nbytes: int) -> None:
        self._flushes = True  # at the end of this, and not when the loop comes round
        self._filled += nbytes
        try:
            self._read()
        except Violation as violation:
            self.close(f"protocol violation: {violation}")
        if self._fresh:
            self._first_steps()
        else:
            self._flush()

    def feed(self, data: bytes) -> None:
        """What was read before the line had its transport."""
        for start in range(0, len(data), BUFFER_BYTES // 2):
            piece = data[start : start + BUFFER_BYTES // 2]
            room = self.get_buffer(len(piece))
            room[: len(piece)] = piece
            self._filled += len(piece)
            try:
                self._read()
            except Violation as violation:
                self.close(f"protocol violation: {violation}")
        if self._fresh:
            self.loop.call_soon(self._first_steps)  # where no other task runs

    def _read(self) -> None:
        view, buffer, end, at = self._view, self._buffer, self._filled, 0
        while end - at >= 4:
            (length,) = _LENGTH.unpack_from(buffer, at)
            if not 0 < length <= self.limit:
                raise Violation(f"a frame of {length} bytes, where {self.limit} are the limit")
            begin, behind = at + 4, at + 4 + length
            if behind > end:
                break
            if buffer[begin] != 0x94 or not self._on_plain_start(begin, behind):
                self._frame(view[begin:behind])
            at = behind
            if self.is_closed:
                return
        rest = end - at
        if rest == len(view):
            # A frame longer than the buffer: it grows as bytes arrive.
            grown = bytearray(2 * len(view))
            grown[:rest] = view
            self._buffer, self._view = grown, memoryview(grown)
        elif at and rest:
            view[:rest] = bytes(view[at:end])
        elif not rest and len(view) > BUFFER_BYTES:
            self._buffer = bytearray(BUFFER_BYTES)
            self._view = memoryview(self._buffer)
        self._filled = rest

    def connection_lost(self, exc: Exception | None) -> None:
        self._conclude("the line has ended" if exc is None else str(exc))

    def close(self, why: str | None = None) -> None:
        """Says goodbye, and why."""
        if self.is_closed:
            return
        if self.transport is not None:
            if why is not None:
                self.write(_frames.frame([_frames.BYE, why]))
            self._flush()
            self.transport.close()
        self._conclude(why or "the line was closed")

    def _conclude(self, why: str) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        self._longs.clear()
        self._turns.clear()
        canceller = Canceller(self.peer, CancelRequest.DROPPED)
        for served in list(self.serving.values()):
            served.cancel(canceller)
        lost = list(self.calls.values())
        if lost and not self.is_parent and not self.was_idle:
            task = self.loop.create_task(self._bereaved(lost, why))
            self.actor.bereaved.add(task)
            task.add_done_callback(self.actor.bereaved.discard)
        else:
            for outgoing in lost:
                self._concluded(outgoing, None, errors.Unknown(outgoing.path, self.peer, why))
        self.resume_writing()
        self.actor.line_ended(self)
        if not self.ended.done():
            self.ended.set_result(None)

    async def _bereaved(self, lost: list[Outgoing], why: str) -> None:
        """Its end says more than the loss of the line, if it has ended."""
        for outgoing in lost:
            if outgoing.context is not None:
                outgoing.context.wake()
        error = await why_lost(self.actor, self.peer)
        for outgoing in lost:
            self._concluded(outgoing, None, error or errors.Unknown(outgoing.path, self.peer, why))

    # ---- writing

    def write(self, frame: bytes) -> None:
        """Writes a frame, with all that is written until the loop comes round."""
        self._out.append(frame)
        if not self._flushes:
            self._flushes = True
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushes = False
        out = self._out
        if out:
            self._out = []
            if self.transport is not None and not self.transport.is_closing():
                self.transport.write(out[0] if len(out) == 1 else b"".join(out))

    def write_of(self, dialog: int, frame: bytes) -> None:
        """Writes a frame of a dialog, behind what of it is on its way."""
        queue = self._longs.get(dialog)
        if queue is None:
            self.write(frame)
        else:
            queue.append(frame)

    def write_payload(self, head: Callable[[int], bytes], dialog: int, payload: bytes) -> None:
        """Writes a frame with a payload, in pieces if that is long. `head` makes the header for so many bytes left."""
        if self.is_closed:
            return
        queue = self._longs.get(dialog)
        if len(payload) <= LONG_BYTES:
            self.write_of(dialog, _frames.framed(head(0), payload))
            return
        if queue is None:
            queue = self._longs[dialog] = deque()
            self._turns.append(dialog)
        queue.append(Long(head, dialog, payload))
        self._pump_soon()

    def _pump_soon(self) -> None:
        if not self._pumps and not self.is_paused:
            self._pumps = True
            self.loop.call_soon(self._pump)

    def _pump(self) -> None:
        """A piece of each long payload in turn, as fast as the socket takes them."""
        self._pumps = False
        for _ in range(PIECES_A_TURN):
            if not self._turns or self.is_paused or self.is_closed:
                break
            dialog = self._turns.popleft()
            queue = self._longs[dialog]
            self._flush()
            first = queue[0]
            self._send(_piece(first) if isinstance(first, Long) else first)
            if not isinstance(first, Long) or first.sent == len(first.data):
                queue.popleft()
            if queue:
                self._turns.append(dialog)
            else:
                del self._longs[dialog]
        if self._turns:
            self._pump_soon()

    def _send(self, frame: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(frame)

    def pause_writing(self) -> None:
        self.is_paused = True

    def resume_writing(self) -> None:
        self.is_paused = False
        waiting, self._drained = self._drained, []
        for future in waiting:
            if not future.done():
                future.set_result(None)
        if self._turns:
            self._pump_soon()

    async def drained(self) -> None:
        """Waits until the socket takes more."""
        while self.is_paused and not self.is_closed:
            future = self.loop.create_future()
            self._drained.append(future)
            await future

    async def flushed(self) -> None:
        """Waits until all has left."""
        if self.transport is not None:
            self.transport.set_write_buffer_limits(high=0)
        self._flush()
        while (self._turns or self._out or self._unsent()) and not self.is_closed:
            self._flush()
            await (self.drained() if self.is_paused else asyncio.sleep(0))

    def _unsent(self) -> int:
        return 0 if self.transport is None else self.transport.get_write_buffer_size()

    @property
    def queued_bytes(self) -> int:
        """What waits until the other side takes it. From any thread."""
        waiting = [one for queue in list(self._longs.values()) for one in list(queue)]
        return self._unsent() + sum(len(one.data) - one.sent for one in waiting if isinstance(one, Long))

    # ---- reading

    def _frame(self, body: memoryview) -> None:
        if len(body) > PEEKED_BYTES:
            header, payload = _frames.split(body)
            self._on_frame(header, payload)
            return
        kind = body[1] if 0x90 <= body[0] <= 0x9F and len(body) > 1 else 0
        if kind not in (_frames.START, _frames.RETURN):
            header, payload = _frames.split(body)
            self._on_frame(header, payload)
            return
        # The frames of plain calls: header and value by one reader.
        values = self._values
        start = values.tell()
        values.feed(body)
        try:
            header = values.unpack()
            read = values.tell() - start
        except Exception:
            self._values = _codec.reader()
            raise Violation("a header can't be read") from None
        is_whole = len(header) < 7 if kind == _frames.START else len(header) < 4
        if not is_whole:
            self._values = _codec.reader()
            self._on_frame(header, body[read:])
            return
        value, problem = None, None
        if read < len(body):
            try:
                value = values.unpack()
                if values.tell() - start != len(body):
                    raise ValueError("bytes follow the value")
            except Exception as error:
                problem = str(error) or "the bytes end too early"
                self._values = _codec.reader()
        _frames.check(header)
        if kind == _frames.START:
            self._on_start(header, value, problem)
        else:
            self._on_return(header, value, problem)

    def _on_frame(self, header: list[Any], payload: memoryview) -> None:
        on_frame = _ON.get(header[0])
        if on_frame is None:  # of a control line, or of a handshake
            raise Violation(f"a {_frames.NAMES[header[0]]} frame has no place here")
        _frames.check(header)
        on_frame(self, header, payload)

    # ---- dialogs of theirs

    def _on_plain_start(self, at: int, end: int) -> bool:
        """Nearly all calls come as `[16, dialog, endpoint, encoding]`, with a small number for the endpoint, and with short
        arguments: those are read here, without a reader of headers. False: this is none, and nothing was done.
        """
        buffer = self._buffer
        if not 3 <= end - at <= PEEKED_BYTES or buffer[at + 1] != _frames.START:
            return False
        fields = _PLAIN_FIELDS.get(buffer[at + 2])
        if fields is None:
            return False
        args = at + 3 + fields.size
        if args > end:
            return False
        dialog, number, encoding = fields.unpack_from(buffer, at + 3)
        if number >= 0x80 or encoding >= 0x80:
            return False
        value, problem = None, None
        try:
            value = _codec.unpack(self._view[args:end])
        except _codec.CodecError as error:
            problem = str(error)
        served = self._open(dialog, number, None)
        if served is not None:
            self._begin(served, number, None, value, problem)
        return True

    def _on_start_frame(self, header: list[Any], payload: memoryview) -> None:
        left = _frames.left_of(header, 6)
        if left:
            self._check_sum(len(payload) + left)
            if self._open_by(header) is not None:
                self._incoming[header[1]] = Incoming(header, payload, left)
            return
        value, problem = _decoded(payload)
        self._on_start(header, value, problem)

    def _check_sum(self, total: int) -> None:
        if total > self.limit:
            raise _frames.too_long(total, self.limit)

    def _open_by(self, header: list[Any]) -> Served | None:
        return self._open(header[1], header[2], header[5] if len(header) > 5 else None)

    def _open(self, dialog: int, number: int, path: Any) -> Served | None:
        """A dialog of theirs that has no endpoint yet: from here on it can be cancelled. None: it was, before."""
        if dialog <= self._last_start or not (dialog ^ self._next_dialog) & 1:
            raise Violation(f"the dialog {dialog} can't start")
        if len(self.serving) >= MAX_DIALOGS:
            raise Violation(f"more than {MAX_DIALOGS} dialogs are open")
        if path is not None:
            if not isinstance(path, str) or len(self._endpoints) >= MAX_ENDPOINTS:
                raise Violation("an endpoint's path is none, or one too many")
            self._endpoints[number] = find(path, self.actor.spec.expose)
        served = Served(self, dialog)
        with self._lock:
            self._last_start = dialog
            tombstone = self._tombstones.pop(dialog, None) if self._tombstones else None
            if tombstone is None:
                self.serving[dialog] = served
        if tombstone is not None:
            self.send_error(dialog, {"Cancelled": tombstone})
            return None
        return served

    def _on_start(self, header: list[Any], args: Any, problem: str | None) -> None:
        served = self._open_by(header)
        if served is not None:
            self._begin_by(served, header, args, problem)

    def _begin_by(self, served: Served, header: list[Any], args: Any, problem: str | None) -> None:
        self._begin(served, header[2], header[4] if len(header) > 4 else None, args, problem)

    def _begin(self, served: Served, number: int, after_us: int | None, args: Any, problem: str | None) -> None:
        """Runs a call whose arguments are here, as soon as all is read that has come with it."""
        dialog = served.dialog
        try:
            endpoint = self._endpoints[number]
        except KeyError:
            raise Violation(f"the endpoint {number} has no path") from None
        if not isinstance(endpoint, Endpoint):
            self._refuse(dialog, endpoint)
            return
        if self.actor.canceller is not None:
            self._refuse(dialog, {"NotStarted": {"reason": "the actor is ending"}})
            return
        if args is None:
            args = []
        if problem is None:
            if not isinstance(args, list):
                problem = "they are no array"
            elif len(args) != endpoint.most:
                problem = endpoint.misfit(len(args))
        if problem is not None:
            self._refuse(dialog, errors.codec("Decode", endpoint.path, "the arguments", problem))
            return
        if after_us is not None:
            served.expire(after_us / 1e6)
        if endpoint.kind != CALL:
            served.context = Context(self, dialog, endpoint.path, served)
        # Who asks for its end from now on is told that it runs. The first step looks whether somebody has asked before.
        served.endpoint = endpoint
        self.actor.running.add(served)
        self._fresh.append((served, args))

    def _first_steps(self) -> None:
        """Begins what has come, and sends what that says."""
        self._flushes = True
        fresh, self._fresh = self._fresh, []
        for served, args in fresh:
            self._steps.begin(served, run_served(served, args))
            if not served.is_over and served.context is None:
                self._out.append(_frames.framed(b"\x92\x11" + _frames.integer(served.dialog)))
        self._flush()

    def _refuse(self, dialog: int, told: Any) -> None:
        with self._lock:
            self.serving.pop(dialog, None)
        self.send_error(dialog, told)

    def send_error(self, dialog: int, told: Any) -> None:
        """The last frame of a dialog that has failed."""
        payload = _codec.pack(told)
        if len(payload) + HEADER_BYTES > self.limit:
            payload = _codec.pack(errors.codec("Encode", "", "the error", too_long(payload, self.limit)))
        self.write_payload(lambda left: _frames.head_of(_frames.ERROR, dialog, False, left), dialog, payload)

    def over(self, served: Served) -> bool:
        """A dialog's task has ended. Whether its other side can be told how."""
        self.serving.pop(served.dialog, None)
        served.is_over = True
        if served.timer is not None:
            served.timer.cancel()
        served.task = None  # it has a context in which `CURRENT` is this: nobody has to look for the circle
        actor = self.actor
        actor.running.discard(served)
        actor.served_count += 1
        if served.context is not None:
            served.context.on_over()
            served.context = None  # another circle
        return not self.is_closed

    def failed(self, served: Served, told: Any) -> None:
        """A dialog's task has ended with an error: that is its last frame."""
        if self.over(served):
            self.send_error(served.dialog, told)

    def returned(self, served: Served, endpoint: Endpoint, value: Any) -> None:
        """A dialog's task has ended with a value: that is its last frame."""
        if not self.over(served):
            return
        dialog = served.dialog
        try:
            payload = _codec.pack(value)
        except _codec.CodecError as error:
            self.send_error(dialog, errors.codec("Encode", endpoint.path, "the result", str(error)))
            return
        if len(payload) + HEADER_BYTES + len(endpoint.path) > self.limit:
            self.send_error(dialog, errors.codec("Encode", endpoint.path, "the result", too_long(payload, self.limit)))
        elif len(payload) <= LONG_BYTES and dialog not in self._longs:
            self.write(_frames.returned(dialog, payload))
        else:
            self.write_payload(lambda left: _frames.head_of(_frames.RETURN, dialog, True, left), dialog, payload)

    def cancel_now(self, dialog: int, canceller: Canceller) -> int:
        """Asks a dialog of theirs to end: what the CancelAck says. From any thread."""
        with self._lock:
            served = self.serving.get(dialog)
            if served is None:
                if dialog > self._last_start and len(self._tombstones) < MAX_DIALOGS:
                    self._tombstones[dialog] = canceller
                return _frames.ACK_ENDED
            if served.asked is None:
                served.asked = canceller
            is_begun = served.endpoint is not None
        self.actor.soon(self._cancel, dialog, canceller)
        return _frames.ACK_ASKED if is_begun else _frames.ACK_ENDED

    def _cancel(self, dialog: int, canceller: Canceller) -> None:
        served = self.serving.get(dialog)
        if served is None:
            return
        if served.endpoint is None:  # its arguments had not all come, and need not
            self._incoming.pop(dialog, None)
            self._refuse(dialog, {"Cancelled": canceller})
        else:
            served.cancel(canceller)

    def _on_cancel(self, header: list[Any], _payload: memoryview) -> None:
        dialog = header[1]
        try:
            canceller = Canceller.read(header[3])
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise Violation(f"nobody who cancels can be read: {error}") from None
        if dialog == 0:
            self.write(_frames.frame([_frames.CANCEL_ACK, 0, _frames.ACK_ASKED]))
            self.actor.cancel(canceller)
        else:
            state = self.cancel_now(dialog, canceller)
            self.write(_frames.frame([_frames.CANCEL_ACK, dialog, state]))

    # ---- dialogs of ours

    async def open(
        self, path: str, args: tuple[Any, ...], deadline: float | None, context: OpenedContext | None
    ) -> Outgoing:
        """Begins a call or a context over there. `deadline` is a time of `time.monotonic()`."""
        while len(self.calls) >= MAX_DIALOGS and not self.is_closed:
            future = self.loop.create_future()
            self._room.append(future)
            await future
        if self.is_closed:
            raise errors.NotStarted(path, self.peer, "the line has ended")
        try:
            payload = _codec.pack(args)
        except _codec.CodecError as error:
            raise errors.CodecError(path, "the arguments", str(error)) from None
        if len(payload) + HEADER_BYTES + len(path.encode()) > self.limit:
            raise errors.CodecError(path, "the arguments", too_long(payload, self.limit))
        dialog = self._next_dialog
        self._next_dialog += 2
        number = self._paths.get(path)
        told = None
        if number is None:
            number = self._paths[path] = len(self._paths)
            told = path
        left_us = None if deadline is None else max(int((deadline - time.monotonic()) * 1e6), 0)
        outgoing = Outgoing(dialog, path, self.loop.create_future(), context)
        self.calls[dialog] = outgoing

        def head(left: int) -> bytes:
            fields: list[Any] = [_frames.START, dialog, number, _frames.NAMED, left_us, told, left or None]
            while fields[-1] is None:
                fields.pop()
            return _codec.packed(fields)

        self.write_payload(head, dialog, payload)
        return outgoing

    async def call(self, path: str, args: tuple[Any, ...], deadline: float | None) -> Any:
        """Calls, and waits for the result."""
        outgoing = await self.open(path, args, deadline, None)
        try:
            return await outgoing.result
        except asyncio.CancelledError:
            if not outgoing.result.done() or outgoing.result.cancelled():
                self.cancel_ours(outgoing, CancelRequest.DROPPED)
            raise

    def cancel_ours(self, outgoing: Outgoing, request: CancelRequest) -> None:
        """Asks a dialog of ours to end; its end comes as ever."""
        if outgoing.dialog not in self.calls or self.is_closed:
            return
        canceller = Canceller(self.actor.aid, request)
        grace_ms = int(self.actor.spec.grace * 1000)
        frame = _frames.frame([_frames.CANCEL, outgoing.dialog, grace_ms, canceller.header()])
        if self.is_parent:
            self._flush()  # a Cancel that overtakes its Start is right, but late
            self.actor.control.send(frame)
        else:
            self.write(frame)

    def _concluded(self, outgoing: Outgoing, value: Any, error: BaseException | None) -> None:
        self.calls.pop(outgoing.dialog, None)
        self._incoming.pop(outgoing.dialog, None)
        result = outgoing.result
        if not result.done():
            if error is None:
                result.set_result(value)
            else:
                result.set_exception(error)
                if outgoing.context is not None:
                    result.exception()  # the context tells it
        if outgoing.context is not None:
            outgoing.context.on_end(value, error)
        if self._room:
            waiting, self._room = self._room, []
            for future in waiting:
                if not future.done():
                    future.set_result(None)

    def _ours(self, kind: int, dialog: int) -> Outgoing:
        outgoing = self.calls.get(dialog)
        if outgoing is None:
            raise _frames.not_open(kind, dialog)
        return outgoing

    def _on_start_ack(self, header: list[Any], _payload: memoryview) -> None:
        self._ours(header[0], header[1]).has_begun = True

    def _on_return_frame(self, header: list[Any], payload: memoryview) -> None:
        left = _frames.left_of(header, 3)
        if left:
            self._check_sum(len(payload) + left)
            self._ours(header[0], header[1])
            self._incoming[header[1]] = Incoming(header, payload, left)
            return
        value, problem = _decoded(payload)
        self._on_return(header, value, problem)

    def _on_return(self, header: list[Any], value: Any, problem: str | None) -> None:
        outgoing = self._ours(header[0], header[1])
        error = None if problem is None else errors.CodecError(outgoing.path, "the result", problem, "Decode")
        self._concluded(outgoing, value, error)

    def _on_error(self, header: list[Any], payload: memoryview) -> None:
        left = _frames.left_of(header, 2)
        if left:
            self._check_sum(len(payload) + left)
            self._ours(header[0], header[1])
            self._incoming[header[1]] = Incoming(header, payload, left)
            return
        outgoing = self._ours(header[0], header[1])
        self._concluded(outgoing, None, errors.from_wire(payload, outgoing.path, self.peer))

    # ---- contexts

    def _context(self, kind: int, dialog: int) -> Context | OpenedContext | None:
        """Whom a frame of a stream is for. None: it is dropped."""
        served = self.serving.get(dialog)
        if served is not None:
            return served.context
        outgoing = self.calls.get(dialog)
        if outgoing is not None:
            return outgoing.context
        self._check_has_been(kind, dialog)
        return None

    def _check_has_been(self, kind: int, dialog: int) -> None:
        """What comes for a dialog that has ended here was on its way; for one that never began it can't be."""
        is_ours = dialog % 2 == self._next_dialog % 2
        has_been = dialog < self._next_dialog if is_ours else 0 < dialog <= self._last_start
        if not has_been:
            raise _frames.not_open(kind, dialog)

    def _on_started(self, header: list[Any], payload: memoryview) -> None:
        left = _frames.left_of(header, 3)
        outgoing = self.calls.get(header[1])
        if outgoing is None:
            if header[1] in self.serving:
                raise _frames.out_of_order(_frames.STARTED, header[1])
            self._check_has_been(_frames.STARTED, header[1])
            return
        if outgoing.context is None:
            # The caller has mistaken its path: that one call fails, and ends as whatever is cancelled.
            if not outgoing.result.done():
                outgoing.result.set_exception(errors.Misused(_CONTEXT_CALLED.format(outgoing.path)))
                self.cancel_ours(outgoing, CancelRequest.DROPPED)
            return
        if left:
            self._check_sum(len(payload) + left)
            self._incoming[header[1]] = Incoming(header, payload, left)
            return
        value, problem = _decoded(payload)
        outgoing.context.on_started(value, problem)

    def _on_open(self, header: list[Any], _payload: memoryview) -> None:
        context = self._context(header[0], header[1])
        if context is not None:
            context.link.on_open(header[1])
            context.wake()

    def _on_yield(self, header: list[Any], payload: memoryview) -> None:
        left = _frames.left_of(header, 3)
        self._check_sum(len(payload) + left)
        context = self._context(header[0], header[1])
        if context is not None:
            context.link.on_yield(header[1], payload, left)
            context.grant()
            context.wake()

    def _on_stop(self, header: list[Any], _payload: memoryview) -> None:
        context = self._context(header[0], header[1])
        if context is not None:
            context.link.on_stop(header[1], header[2])
            context.wake()

    def _on_credit(self, header: list[Any], _payload: memoryview) -> None:
        context = self._context(header[0], header[1])
        if context is not None:
            context.link.sending.on_credit(header[2])
            context.wake()

    def _on_part(self, header: list[Any], payload: memoryview) -> None:
        dialog, left = header[1], header[2]
        incoming = self._incoming.get(dialog)
        if incoming is None:
            context = self._context(_frames.PART, dialog)
            if context is not None:
                context.link.on_part(dialog, payload, left)
                context.grant()
                context.wake()
            return  # else of one that has ended here
        incoming.data += payload
        incoming.left -= len(payload)
        if incoming.left != left:
            raise _frames.out_of_order(_frames.PART, dialog)
        if not left:
            del self._incoming[dialog]
            self._whole(incoming.header, memoryview(incoming.data))

    def _whole(self, header: list[Any], payload: memoryview) -> None:
        """A payload that came in pieces is here."""
        kind, dialog = header[0], header[1]
        if kind == _frames.START:
            served = self.serving[dialog]
            value, problem = _decoded(payload)
            self._begin_by(served, header, value, problem)
        elif kind == _frames.ERROR:
            self._on_error(header[:2], payload)
        elif kind == _frames.RETURN:
            self._on_return_frame(header[:3], payload)
        else:
            self._on_started(header[:3], payload)

    # ---- the line itself

    def _on_ping(self, header: list[Any], _payload: memoryview) -> None:
        self._out.insert(0, _frames.frame([_frames.PONG, header[1]]))
        self._flush()

    def _on_bye(self, header: list[Any], _payload: memoryview) -> None:
        why = header[1] if len(header) > 1 else "and nothing else"
        if why == "idle":
            # What has crossed it was not begun: it may be asked again, on a new line.
            self.was_idle = True
            for outgoing in list(self.calls.values()):
                self._concluded(outgoing, None, errors.NotStarted(outgoing.path, self.peer, "its line has closed"))
        self.close("idle" if self.was_idle else f"it said goodbye: {why}")

    def _ignore(self, _header: list[Any], _payload: memoryview) -> None:
        pass


def _piece(long: Long) -> bytes:
    piece = long.data[long.sent : long.sent + PIECE_BYTES]
    is_first = long.sent == 0
    long.sent += len(piece)
    left = len(long.data) - long.sent
    head = long.head(left) if is_first else _frames.head_of(_frames.PART, long.dialog, False, left)
    return _frames.framed(head, piece)


def _decoded(payload: memoryview) -> tuple[Any, str | None]:
    try:
        return _codec.unpack(payload), None
    except _codec.CodecError as error:
        return None, str(error)


_ON: dict[int, Callable[[Line, list[Any], memoryview], None]] = {
    _frames.START: Line._on_start_frame,
    _frames.START_ACK: Line._on_start_ack,
    _frames.STARTED: Line._on_started,
    _frames.OPEN: Line._on_open,
    _frames.YIELD: Line._on_yield,
    _frames.STOP: Line._on_stop,
    _frames.RETURN: Line._on_return_frame,
    _frames.ERROR: Line._on_error,
    _frames.CANCEL: Line._on_cancel,
    _frames.CANCEL_ACK: Line._ignore,
    _frames.CREDIT: Line._on_credit,
    _frames.PART: Line._on_part,
    _frames.PING: Line._on_ping,
    _frames.PONG: Line._ignore,
    _frames.LOG: Line._ignore,
    _frames.BYE: Line._on_bye,
}

__all__ = ["STREAM", "Line", "Outgoing"]
