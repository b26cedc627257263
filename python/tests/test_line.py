"""What does a line do, when what comes is late, hostile, or crossed by a cancel?"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

import teamster
from teamster import _actor, _frames, _line, _registry, errors
from teamster._codec import pack
from teamster._frames import frame, head_of
from teamster._ident import Aid, Canceller, CancelRequest
from teamster._line import LONG_BYTES, Line
from teamster._threads import Threads

HERE = Aid("here", bytes(range(16)), 7, "host")
PEER = Aid("peer", bytes(16), 8, "host")
DROPPED = Canceller(PEER, CancelRequest.DROPPED)
LONG = b"\0" * (4 * LONG_BYTES)


class Transport:
    """Takes what is written, as fast as it comes."""

    def __init__(self) -> None:
        self.is_closed = False
        self.frames = _frames.Frames(1 << 30)
        self.written: list[tuple[list[Any], bytes]] = []

    def write(self, data: bytes) -> None:
        self.written += self.frames.feed(bytes(data))

    def set_write_buffer_limits(self, high: int) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True


class Actor:
    """What a line asks its actor for."""

    def __init__(self) -> None:
        self.aid = HERE
        self.loop = asyncio.get_running_loop()
        self.spec = SimpleNamespace(expose=None, grace=1.0)
        self.canceller: Canceller | None = None
        self.bereaved: set[asyncio.Task[None]] = set()
        self.running: set[Any] = set()
        self.in_flight = self.served_count = 0
        self.stood = 0.0
        self._threads = Threads(self.loop, 1)

    def soon(self, function: Callable[..., object], *args: Any) -> None:
        self.loop.call_soon(function, *args)

    def line_ended(self, line: Line) -> None: ...

    in_thread = _actor.Actor.in_thread


def line_to_peer() -> tuple[Line, Transport]:
    actor: Any = Actor()
    line, transport = Line(actor, PEER, is_parent=False, connects=True, limit=1 << 20), Transport()
    line.was_idle = True  # nobody asks for an obituary
    line.connection_made(transport)  # type: ignore[arg-type]
    return line, transport


async def turns() -> None:
    """All that can go on without a frame of the peer's has gone on."""
    for _ in range(50):
        await asyncio.sleep(0)


def kinds(transport: Transport) -> list[int]:
    return [header[0] for header, _ in transport.written]


def on_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(test())

    run.__name__ = test.__name__
    return run


@pytest.fixture(autouse=True)
def endpoints() -> Iterator[None]:
    kept = dict(_registry.ENDPOINTS)

    @teamster.rpc(name="line::size")
    async def size(data: bytes) -> int:
        return len(data)

    @teamster.context(name="line::linked")
    async def linked(ctx: teamster.Context) -> None:
        CONTEXTS.append(ctx)
        await ctx.started()
        STREAMS.append(ctx.open_stream())
        await asyncio.Event().wait()

    @teamster.context(name="line::says_goodbye")
    async def says_goodbye(ctx: teamster.Context) -> None:
        await ctx.started()
        stream = ctx.open_stream()
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(GOODBYES):
                await stream.send(GOODBYE)

    @teamster.rpc(name="line::cleans_up")
    async def cleans_up() -> None:
        MAY_END.append(asyncio.Event())
        try:
            await asyncio.Event().wait()
        finally:
            COUNTED.append("cleans up")
            await MAY_END[0].wait()
            COUNTED.append("is done")

    @teamster.rpc(name="line::counts")
    async def counts() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x" * 1000
        finally:
            COUNTED.append("closed")

    @teamster.rpc(name="line::reads_a_closed_one")
    async def reads_a_closed_one() -> AsyncIterator[int]:
        yield 1
        raise errors.StreamClosed("another::stream", HERE)

    yield
    CONTEXTS.clear()
    STREAMS.clear()
    COUNTED.clear()
    MAY_END.clear()
    _registry.ENDPOINTS.clear()
    _registry.ENDPOINTS.update(kept)


GOODBYES = 3
GOODBYE = b"x" * 10_000

CONTEXTS: list[teamster.Context] = []
STREAMS: list[teamster.Stream] = []
COUNTED: list[str] = []
MAY_END: list[asyncio.Event] = []


def start(dialog: int, path: str, *args: Any) -> bytes:
    return frame([_frames.START, dialog, 0, 0, None, path], pack(list(args)))


# ---- streams


@on_loop
async def test_an_item_that_was_cancelled_before_its_first_piece_is_none() -> None:
    line, transport = line_to_peer()
    line.feed(start(2, "line::linked") + frame([_frames.OPEN, 2]))
    await turns()
    [stream] = STREAMS
    window = b"\1" * (16 * 1024 - 3)
    await stream.send(window)  # all of the credit
    waiting = asyncio.ensure_future(stream.send(b"\2" * 100_000))
    await turns()
    waiting.cancel()
    await asyncio.wait({waiting})
    line.feed(frame([_frames.CREDIT, 2, 1 << 20]))
    await stream.send(b"three")
    await turns()
    items = [(header[0], payload) for header, payload in transport.written if header[0] in (_frames.YIELD, _frames.PART)]
    assert items == [(_frames.YIELD, pack(window)), (_frames.YIELD, pack(b"three"))]


@on_loop
async def test_an_item_that_waits_for_credit_goes_in_pieces_with_it() -> None:
    line, transport = line_to_peer()
    line.feed(start(2, "line::linked") + frame([_frames.OPEN, 2]))
    await turns()
    [stream] = STREAMS
    await stream.send(b"\1" * (16 * 1024 - 3))
    data = bytes(range(250)) * 400
    waiting = asyncio.ensure_future(stream.send(data))
    await turns()
    for up_to in (20_000, 90_000, 200_000):
        line.feed(frame([_frames.CREDIT, 2, up_to]))
        await turns()
    await waiting
    pieces = [(header, payload) for header, payload in transport.written if header[0] in (_frames.YIELD, _frames.PART)][1:]
    assert [header[0] for header, _ in pieces] == [_frames.YIELD] + [_frames.PART] * (len(pieces) - 1) and len(pieces) > 2
    assert b"".join(payload for _, payload in pieces) == pack(data)


@on_loop
async def test_a_failure_that_comes_with_the_first_word_is_raised_and_interrupts_nobody() -> None:
    line, _ = line_to_peer()

    async def connect() -> Line:
        return line

    told = errors.failed(ValueError("at once"), PEER)
    with pytest.raises(teamster.RemoteError, match="at once"):
        opened = teamster.OpenedContext(connect, "line::far", (), None)
        entering = asyncio.ensure_future(opened.__aenter__())
        await turns()
        line.feed(frame([_frames.STARTED, 1, 0], pack(1)) + frame([_frames.ERROR, 1], pack(told)))
        try:
            await entering
        finally:
            current = asyncio.current_task()
            assert current is not None and entering.cancelling() == current.cancelling() == 0
    await asyncio.sleep(0)  # where a cancel would arrive


@on_loop
async def test_what_a_generator_fails_of_is_told_also_where_it_is_another_streams_end() -> None:
    line, transport = line_to_peer()
    line.feed(start(2, "line::reads_a_closed_one") + frame([_frames.OPEN, 2]))
    await turns()
    header, payload = transport.written[-1]
    assert header == [_frames.ERROR, 2] and "another::stream" in str(errors.from_wire(payload, "", PEER))


@on_loop
async def test_a_generator_whose_reader_has_left_ends_well() -> None:
    line, transport = line_to_peer()
    line.feed(start(2, "line::counts") + frame([_frames.OPEN, 2]))
    await turns()
    line.feed(frame([_frames.STOP, 2, _frames.STOP_LEFT]))
    await turns()
    assert transport.written[-1] == ([_frames.RETURN, 2, 1], pack(None)) and COUNTED == ["closed"]


# ---- cancels


def parts(dialog: int, path: str, payload: bytes) -> tuple[bytes, bytes]:
    """A Start whose arguments come in two."""
    cut = len(payload) // 2
    head = [_frames.START, dialog, 0, 0, None, path, len(payload) - cut]
    return frame(head, payload[:cut]), _frames.framed(head_of(_frames.PART, dialog, False, 0), payload[cut:])


def was_cancelled(transport: Transport, dialog: int) -> bool:
    """Whether that is all that was said."""
    [said] = transport.written
    return is_cancelled(said, dialog)


def is_cancelled(said: tuple[list[Any], bytes], dialog: int) -> bool:
    header, payload = said
    return header == [_frames.ERROR, dialog] and isinstance(errors.from_wire(payload, "", PEER), teamster.Cancelled)


@on_loop
async def test_a_cancel_while_long_arguments_become_a_value_is_none_too_early() -> None:
    line, transport = line_to_peer()
    first, last = parts(2, "line::size", pack([LONG]))
    line.feed(first)
    asked: list[int] = []
    decoded = _line._decoded

    def cancelled_meanwhile(payload: memoryview) -> tuple[Any, str | None]:
        asked.append(line.cancel_now(2, DROPPED))  # as the control thread does
        return decoded(payload)

    _line._decoded = cancelled_meanwhile
    try:
        line.feed(last)
    finally:
        _line._decoded = decoded
    await turns()
    assert asked == [_frames.ACK_ENDED] and was_cancelled(transport, 2) and not line.serving


@on_loop
async def test_a_cancel_between_a_start_and_its_task_is_none_too_early() -> None:
    line, transport = line_to_peer()
    begin = line._begin

    def cancelled_before(*what: Any) -> None:
        assert line.cancel_now(2, DROPPED) == _frames.ACK_ENDED
        begin(*what)

    line._begin = cancelled_before  # type: ignore[method-assign, assignment]
    line.feed(start(2, "line::size", b"x"))
    await turns()
    assert was_cancelled(transport, 2) and not line.serving


@on_loop
async def test_a_plain_function_that_waits_for_a_thread_is_cancelled_at_once_and_never_runs() -> None:
    line, transport = line_to_peer()
    ran: list[int] = []
    may_end = threading.Event()

    @teamster.rpc(name="line::block")
    def block(n: int) -> None:
        ran.append(n)
        may_end.wait(30)

    line.feed(start(2, "line::block", 1))
    line.feed(start(4, "line::block", 2))
    await turns()
    assert line.cancel_now(4, DROPPED) == _frames.ACK_ASKED
    await turns()
    assert is_cancelled(transport.written[-1], 4) and list(line.serving) == [2]
    may_end.set()
    while line.serving or line.actor._threads._unfinished:  # the thread finds the other one, and leaves it
        await asyncio.sleep(0)
    assert ran == [1]


@on_loop
async def test_a_cancel_that_overtakes_its_start_is_kept() -> None:
    line, transport = line_to_peer()
    assert line.cancel_now(2, DROPPED) == _frames.ACK_ENDED
    line.feed(start(2, "line::size", b"x"))
    await turns()
    assert was_cancelled(transport, 2) and not line.serving


@on_loop
async def test_a_cancel_while_arguments_are_on_their_way_ends_the_dialog_and_what_comes_is_skipped() -> None:
    line, transport = line_to_peer()
    first, last = parts(2, "line::size", pack([LONG]))
    line.feed(first)
    line.cancel_now(2, DROPPED)
    await turns()
    line.feed(last)
    await turns()
    assert was_cancelled(transport, 2) and not line.serving and not line.is_closed


@on_loop
async def test_long_arguments_come_whole() -> None:
    line, transport = line_to_peer()
    line.feed(b"".join(parts(2, "line::size", pack([LONG]))))
    await turns()
    assert transport.written[-1] == ([_frames.RETURN, 2, 1], pack(len(LONG)))


# ---- ends


async def calls(line: Line, path: str, *args: Any) -> "asyncio.Task[Any]":
    call = asyncio.get_running_loop().create_task(line.call(path, args, None))
    await asyncio.sleep(0)
    return call


@on_loop
async def test_a_line_that_ends_below_a_long_payload_comes_to_rest() -> None:
    line, _ = line_to_peer()
    call = await calls(line, "line::size", LONG * 4)
    line.pause_writing()
    line.connection_lost(None)
    pumps = 0
    pump = line._pump

    def counted() -> None:
        nonlocal pumps
        pumps += 1
        pump()

    line._pump = counted  # type: ignore[method-assign]
    await turns()
    assert isinstance(call.exception(), teamster.Unknown)
    line.write_payload(lambda left: head_of(_frames.ERROR, 2, False, left), 2, LONG)
    await turns()
    assert pumps <= 1 and line.queued_bytes == 0


@on_loop
async def test_what_cleans_up_runs_on_where_its_line_is_lost() -> None:
    line, _ = line_to_peer()
    line.feed(start(2, "line::cleans_up"))
    await turns()
    line.connection_lost(None)
    await turns()
    assert COUNTED == ["cleans up"] and len(line.actor.running) == 1
    MAY_END[0].set()
    await turns()
    assert COUNTED == ["cleans up", "is done"] and not line.actor.running


@on_loop
async def test_what_cleans_up_sends_as_far_as_its_canceller_grants() -> None:
    line, transport = line_to_peer()
    line.feed(start(2, "line::says_goodbye"))
    await turns()
    line.feed(frame([_frames.OPEN, 2]))
    line.feed(frame([_frames.CANCEL, 2, 0, Canceller(PEER, CancelRequest.CONTEXT).header()]))
    await turns()
    assert not is_cancelled(transport.written[-1], 2), "the first window is full"
    line.feed(frame([_frames.CREDIT, 2, 1 << 20]))
    await turns()
    assert is_cancelled(transport.written[-1], 2)
    items = b"".join(payload for header, payload in transport.written if header[0] in (_frames.YIELD, _frames.PART))
    assert items == pack(GOODBYE) * GOODBYES


@on_loop
async def test_a_context_that_was_called_is_its_callers_mistake_and_no_more() -> None:
    line, transport = line_to_peer()
    wrong, right = await calls(line, "line::far_context"), await calls(line, "line::far")
    line.feed(frame([_frames.STARTED, 1, 0], pack(1)))
    with pytest.raises(teamster.Misused, match="line::far_context is a context"):
        await wrong
    await turns()
    assert kinds(transport) == [_frames.START, _frames.START, _frames.CANCEL] and 1 in line.calls
    cancelled = {"Cancelled": Canceller(HERE, CancelRequest.DROPPED).__teamster__()}
    line.feed(frame([_frames.OPEN, 1]) + frame([_frames.ERROR, 1], pack(cancelled)) + frame([_frames.RETURN, 3, 1], pack(9)))
    assert await right == 9 and not line.calls and not line.is_closed


@on_loop
async def test_a_hostile_frame_closes_the_line_with_a_word() -> None:
    head = [_frames.START, 2, 0, 0]
    aid = PEER.header()
    hostile: list[list[Any]] = [
        [_frames.START],
        [_frames.START, 2],
        [_frames.START, "2", 0, 0, None, "line::size"],
        [_frames.START, True, 0, 0, None, "line::size"],
        [_frames.START, -2, 0, 0, None, "line::size"],
        [_frames.START, 2, [], 0, None, "line::size"],
        [_frames.START, 2, 0, 0, "soon", "line::size"],
        [_frames.START, 2, 0, 0, None, 7],
        [_frames.START, 2, 0, 0, None, "line::size", -1],
        [_frames.START, 2, 0, 0, None, "line::size", 1 << 40],
        head,
        [_frames.RETURN],
        [_frames.RETURN, [], 1],
        [_frames.RETURN, 1, 1],
        [_frames.RETURN, 1, 1, {}],
        [_frames.ERROR, None],
        [_frames.ERROR, 1, 1.5],
        [_frames.STARTED, {}, 0],
        [_frames.OPEN],
        [_frames.YIELD, 1, 0, -5],
        [_frames.YIELD, 1, 0, 1 << 40],
        [_frames.STOP, 1],
        [_frames.CREDIT, 1, "all"],
        [_frames.PART, 1, None],
        [_frames.PING],
        [_frames.PING, []],
        [_frames.CANCEL, 1, 0],
        [_frames.CANCEL, 1, 0, {}],
        [_frames.CANCEL, 1, 0, [[*aid[:1], 3, *aid[2:]], 0, 0]],
        [_frames.CANCEL, 1, 0, [["name", [500] * 16, 7, "host"], 0, 0]],
        *([kind, dialog, 0] for kind in STREAMS_KINDS for dialog in (0, 1, 2)),  # which never began
        *([kind] for kind in _frames.NAMES if kind not in _line._ON),
    ]
    for header in hostile:
        line, transport = line_to_peer()
        line.feed(frame(header))
        await turns()
        assert line.is_closed and transport.is_closed, header
        said = transport.written[-1][0]
        assert said[0] == _frames.BYE and said[1].startswith("protocol violation: "), (header, said)
    line, transport = line_to_peer()
    line.feed(b"\x02\0\0\0\x90\x16")  # an array of no fields, and what looks like a kind behind it
    assert line.is_closed


STREAMS_KINDS = (_frames.STARTED, _frames.OPEN, _frames.YIELD, _frames.STOP, _frames.CREDIT, _frames.PART)


@on_loop
async def test_what_comes_for_a_dialog_that_has_ended_is_dropped() -> None:
    line, transport = line_to_peer()
    line.feed(start(2, "line::size", b"12"))
    call = await calls(line, "peer::size", b"12")
    line.feed(_frames.framed(head_of(_frames.RETURN, 1, True, 0), pack(2)))
    assert await call == 2
    await turns()
    assert _frames.RETURN in kinds(transport), "both have ended"
    for dialog in (1, 2):
        for kind in STREAMS_KINDS:
            line.feed(frame([kind, dialog, 0], pack(7)))
            assert not line.is_closed, (dialog, _frames.NAMES[kind])


@on_loop
async def test_what_has_no_place_in_a_context_is_named_with_its_dialog() -> None:
    hostile = {
        "Started for the dialog 2, where it has no place now": [_frames.STARTED, 2, 0],
        "Yield for the dialog 2, where it has no place now": [_frames.YIELD, 2, 0],
        "Part for the dialog 2, where it has no place now": [_frames.PART, 2, 0],
        "Stop for the dialog 2, where it has no place now": [_frames.STOP, 2, 0],
        "7 is no way to stop": [_frames.STOP, 2, 7],
        "Return for the dialog 2, which is not open here": [_frames.RETURN, 2, 0],
    }
    for wanted, header in hostile.items():
        line, transport = line_to_peer()
        line.feed(start(2, "line::linked"))
        await turns()
        line.feed(frame(header, pack(7)))
        said = transport.written[-1][0]
        assert said[0] == _frames.BYE and wanted in said[1], said
        await turns()


@on_loop
async def test_parts_that_do_not_fit_each_other_close_the_line() -> None:
    line, _ = line_to_peer()
    line.feed(frame([_frames.START, 2, 0, 0, None, "line::size", 10], b"\x91"))
    line.feed(_frames.framed(head_of(_frames.PART, 2, False, 5), b"\0" * 4))
    assert line.is_closed


