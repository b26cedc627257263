"""Does a call begin as soon as it is read, and is it a task like any other all the same?"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from test_line import DROPPED, PEER, Transport, kinds, line_to_peer, on_loop, start, turns

import teamster
from teamster import _frames, _registry, errors
from teamster._codec import pack, unpack
from teamster._first_step import FirstSteps
from teamster._frames import frame
from teamster._line import BUFFER_BYTES, Line
from teamster._served import Served

COLOUR: contextvars.ContextVar[str] = contextvars.ContextVar("colour", default="none")
LINES: list[Line] = []
SEEN: list[Any] = []
MAY_GO_ON: list[asyncio.Event] = []


@pytest.fixture(autouse=True)
def endpoints() -> Iterator[None]:
    kept = dict(_registry.ENDPOINTS)

    @teamster.rpc(name="first::add")
    async def add(a: int, b: int) -> int:
        return a + b

    @teamster.rpc(name="first::looks_around")
    async def looks_around() -> int:
        for _ in range(2):
            SEEN.append((asyncio.current_task(), asyncio.all_tasks()))
            await MAY_GO_ON[0].wait()
        return 7

    @teamster.rpc(name="first::is_late")
    async def is_late() -> str:
        try:
            async with asyncio.timeout(0):
                await asyncio.Event().wait()
        except TimeoutError:
            return "late"
        return "in time"

    @teamster.rpc(name="first::has_children")
    async def has_children() -> list[int]:
        async def child(n: int) -> int:
            await asyncio.sleep(0)
            return n

        async with asyncio.TaskGroup() as group:
            children = [group.create_task(child(n)) for n in range(3)]
        return [one.result() for one in children]

    @teamster.rpc(name="first::has_a_bad_child")
    async def has_a_bad_child() -> None:
        async def child() -> None:
            raise ValueError("bad")

        async with asyncio.TaskGroup() as group:
            group.create_task(child())
            await asyncio.Event().wait()

    @teamster.rpc(name="first::waits")
    async def waits() -> None:
        SEEN.append("begun")
        await asyncio.Event().wait()

    @teamster.rpc(name="first::paints")
    async def paints() -> str:
        before = COLOUR.get()
        COLOUR.set("red")
        return before

    @teamster.rpc(name="first::fails")
    async def fails() -> None:
        raise ValueError("at once")

    @teamster.rpc(name="first::calls_back")
    async def calls_back() -> Any:
        return await LINES[0].call("far::away", (1,), None)

    @teamster.context(name="first::ends_itself")
    async def ends_itself(ctx: teamster.Context) -> None:
        ctx.cancel()
        SEEN.append("asked")
        await asyncio.Event().wait()

    yield
    LINES.clear()
    SEEN.clear()
    MAY_GO_ON.clear()
    _registry.ENDPOINTS.clear()
    _registry.ENDPOINTS.update(kept)


async def arrives(line: Line, data: bytes, look: Callable[[], Any] = lambda: None) -> Any:
    """It comes from the socket; and what `look` saw right behind that, when the loop had not come round."""
    seen = asyncio.get_running_loop().create_future()

    def read() -> None:
        line.get_buffer(-1)[: len(data)] = data
        line.buffer_updated(len(data))
        seen.set_result(look())

    asyncio.get_running_loop().call_soon(read)
    return await seen


def results(transport: Transport) -> list[Any]:
    return [unpack(payload) for header, payload in transport.written if header[0] == _frames.RETURN]


def error(transport: Transport) -> BaseException:
    [told] = [payload for header, payload in transport.written if header[0] == _frames.ERROR]
    return errors.from_wire(told, "", PEER)


@on_loop
async def test_what_needs_no_more_than_a_step_is_answered_at_once() -> None:
    line, transport = line_to_peer()
    data = start(2, "first::add", 1, 2) + frame([_frames.START, 4, 0, 0], pack([3, 4]))
    assert await arrives(line, data, lambda: kinds(transport)) == [_frames.RETURN, _frames.RETURN]
    assert results(transport) == [3, 7] and not line.serving and not line.actor.running


@on_loop
async def test_what_waits_has_said_that_it_runs() -> None:
    line, transport = line_to_peer()
    assert await arrives(line, start(2, "first::waits"), lambda: kinds(transport)) == [_frames.START_ACK]
    assert line.cancel_now(2, DROPPED) == _frames.ACK_ASKED
    await turns()
    assert isinstance(error(transport), teamster.Cancelled)


@on_loop
async def test_it_is_a_task_of_its_own_from_its_first_step_on() -> None:
    line, transport = line_to_peer()
    MAY_GO_ON.append(asyncio.Event())
    between = await arrives(line, start(2, "first::looks_around") + frame([_frames.START, 4, 0, 0]), asyncio.current_task)
    assert between is None
    MAY_GO_ON[0].set()
    await turns()
    assert results(transport) == [7, 7]
    tasks = [task for task, _ in SEEN]
    assert tasks[:2] == tasks[2:] and tasks[0] is not tasks[1] and all(isinstance(task, asyncio.Task) for task in tasks)
    assert all(task in everyone for task, everyone in SEEN)
    assert not set(tasks) & asyncio.all_tasks()


@on_loop
async def test_timeouts_and_groups_work_in_the_first_step() -> None:
    line, transport = line_to_peer()
    await arrives(line, start(2, "first::is_late"))
    await turns()
    line, other = line_to_peer()
    await arrives(line, start(2, "first::has_children"))
    await turns()
    assert results(transport) == ["late"] and results(other) == [[0, 1, 2]]
    line, transport = line_to_peer()
    await arrives(line, start(2, "first::has_a_bad_child"))
    await turns()
    assert "ExceptionGroup" in str(error(transport))


@on_loop
async def test_a_cancel_right_behind_a_call_comes_before_its_first_step() -> None:
    line, transport = line_to_peer()
    cancel = frame([_frames.CANCEL, 2, 1000, DROPPED.header()])
    await arrives(line, start(2, "first::waits") + cancel)
    await turns()
    assert not SEEN and isinstance(error(transport), teamster.Cancelled) and not line.serving


@on_loop
async def test_who_was_asked_to_end_before_its_first_step_takes_none() -> None:
    line, transport = line_to_peer()
    line.feed(start(2, "first::waits"))  # which comes to its first step a turn later
    assert line.cancel_now(2, DROPPED) == _frames.ACK_ASKED
    await turns()
    assert not SEEN and isinstance(error(transport), teamster.Cancelled)
    assert not line.serving and not line.actor.running


@on_loop
async def test_its_deadline_goes_with_it() -> None:
    line, _ = line_to_peer()
    await arrives(line, frame([_frames.START, 2, 0, 0, 10**9, "first::add"], pack([1, 2])))
    await arrives(line, frame([_frames.START, 4, 1, 0, 10**9, "first::waits"], pack([])))
    [served] = line.serving.values()
    assert served.timer is not None and not served.timer.cancelled()
    line.cancel_now(4, DROPPED)
    await turns()
    loop: Any = asyncio.get_running_loop()
    assert served.timer.cancelled() and all(timer.cancelled() for timer in loop._scheduled)


@on_loop
async def test_what_a_call_sets_in_its_context_is_its_own() -> None:
    line, transport = line_to_peer()
    data = start(2, "first::paints") + frame([_frames.START, 4, 0, 0])
    assert await arrives(line, data, COLOUR.get) == "none"
    assert results(transport) == ["none", "none"]


@on_loop
async def test_a_failure_in_the_first_step_is_that_calls_alone() -> None:
    line, transport = line_to_peer()
    await arrives(line, start(2, "first::fails") + frame([_frames.START, 4, 1, 0, None, "first::add"], pack([1, 2])))
    assert "at once" in str(error(transport)) and results(transport) == [3] and not line.is_closed


@on_loop
async def test_a_first_step_may_call_back() -> None:
    line, transport = line_to_peer()
    LINES.append(line)
    data = start(2, "first::calls_back")
    assert await arrives(line, data, lambda: kinds(transport)) == [_frames.START, _frames.START_ACK]
    await arrives(line, frame([_frames.RETURN, 1, 1], pack("back")))
    await turns()
    assert results(transport) == ["back"]


@on_loop
async def test_a_context_may_end_itself_in_its_first_step() -> None:
    line, transport = line_to_peer()
    await arrives(line, start(2, "first::ends_itself"))
    await turns()
    assert SEEN == ["asked"] and "itself" in str(error(transport))


@on_loop
async def test_a_violation_behind_a_call_ends_it_before_its_first_step() -> None:
    line, transport = line_to_peer()
    await arrives(line, start(2, "first::waits") + frame([_frames.START]))
    await turns()
    assert not SEEN and line.is_closed and kinds(transport) == [_frames.BYE] and not line.actor.running


@on_loop
async def test_a_task_factory_of_the_programs_own_is_asked() -> None:
    loop = asyncio.get_running_loop()
    made: list[Any] = []

    def factory(loop: asyncio.AbstractEventLoop, run: Any, **more: Any) -> Any:
        made.append(run)
        return asyncio.Task(run, loop=loop, **more)

    line, transport = line_to_peer()
    loop.set_task_factory(factory)
    try:
        await arrives(line, start(2, "first::add", 1, 2))
        await turns()
    finally:
        loop.set_task_factory(None)
    assert results(transport) == [3] and len(made) == 1


@on_loop
async def test_a_call_that_is_over_leaves_nothing_to_the_collector_of_garbage() -> None:
    line, transport = line_to_peer()
    gc.collect()
    gc.disable()
    try:
        await arrives(line, start(2, "first::add", 1, 2))
        await arrives(line, start(4, "first::is_late"))
        await turns()
        left = [one for one in gc.get_objects() if isinstance(one, Served)]
    finally:
        gc.enable()
    assert results(transport) == [3, "late"] and not left


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="there a task can be made so by itself")
@on_loop
async def test_what_somebody_else_calls_soon_while_a_task_is_made_is_called_soon() -> None:
    loop = asyncio.get_running_loop()
    heard: list[str] = []
    everyone: Any = asyncio.tasks._all_tasks  # type: ignore[attr-defined]
    add = everyone.add

    def noisy(task: Any) -> None:  # as a finalizer may be, wherever the collector comes by
        loop.call_soon(heard.append, "a finalizer")
        add(task)

    class Owner:
        task: asyncio.Task[None] | None = None

    async def run() -> None:
        heard.append("first step")

    def made() -> None:
        everyone.add = noisy
        try:
            FirstSteps(loop).begin(Owner(), run())
        finally:
            del everyone.add

    loop.call_soon(made)
    await turns()
    assert heard == ["first step", "a finalizer"]


# ---- how it is read


@on_loop
async def test_the_shortest_header_of_a_start_is_read_with_ids_of_any_length() -> None:
    line, transport = line_to_peer()
    dialogs = [2, 126, 128, 254, 256, 65_534, 65_536, (1 << 32) - 2, 1 << 32, (1 << 64) - 2]
    data = start(dialogs[0], "first::add", 1, 2)
    data += b"".join(frame([_frames.START, dialog, 0, 0], pack([dialog, 0])) for dialog in dialogs[1:])
    await arrives(line, data)
    assert [header[1] for header, _ in transport.written] == dialogs and results(transport) == [3, *dialogs[1:]]


@on_loop
async def test_arguments_that_can_not_be_read_are_that_calls_failure_alone() -> None:
    for payload in (b"\x92\x01", b"\x92\x01\x02\x03", b"\xc1", b"\x01", b"\x91\x01", b""):
        line, transport = line_to_peer()
        await arrives(line, start(2, "first::add", 1, 2) + frame([_frames.START, 300, 0, 0], payload))
        assert isinstance(error(transport), teamster.CodecError) and not line.is_closed and not line.serving, payload


@on_loop
async def test_a_start_that_ends_too_early_closes_the_line() -> None:
    whole = b"\x94\x10\xcd\x01\x2c\0\0"
    for length in range(1, len(whole)):
        line, transport = line_to_peer()
        await arrives(line, start(2, "first::add", 1, 2) + _frames.framed(whole[:length]))
        assert line.is_closed and transport.written[-1][0][0] == _frames.BYE, length


@on_loop
async def test_a_start_of_an_endpoint_that_has_no_path_closes_the_line() -> None:
    line, transport = line_to_peer()
    await arrives(line, frame([_frames.START, 300, 0, 0], pack([1, 2])))
    assert line.is_closed and transport.written[-1][0][0] == _frames.BYE


@on_loop
async def test_a_start_may_end_where_the_buffer_does() -> None:
    for short in range(12):
        line, transport = line_to_peer()
        await arrives(line, start(2, "first::add", 1, 2))
        call = frame([_frames.START, 300, 0, 0], pack([1, 2]))
        filler = frame([_frames.PONG, 1])
        before = BUFFER_BYTES - len(call) + short
        count = before // len(filler) - 1
        data = filler * count + frame([_frames.PONG, 1], bytes(before - (count + 1) * len(filler))) + call
        await arrives(line, data[:BUFFER_BYTES])
        await arrives(line, data[BUFFER_BYTES:] + filler)
        assert results(transport) == [3, 3], short
