"""Does an actor end, whatever its threads do?"""

from __future__ import annotations

import asyncio
import errno
import logging
import pathlib
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from teamster import _actor, _frames, _logs, errors
from teamster._control import MAX_WAIT_MS, Control
from teamster._frames import frame
from teamster._ident import Aid, Canceller, CancelRequest
from teamster._threads import Threads

PARENT = Aid("parent", bytes(16), 8, "host")
SOURCE = str(pathlib.Path(__file__).parents[1] / "src")
FOR_EVER = 1e9
"""Seconds of a grace that no test reaches: its end is that of all processes of the group."""


class Cancelled:
    """An actor that notes how it was cancelled."""

    def __init__(self) -> None:
        self.aid = Aid("here", bytes(range(16)), 7, "host")
        self.spec = SimpleNamespace(grace=FOR_EVER, parent=PARENT)
        self.canceller: Canceller | None = None
        self.died_by: int | None = None
        self.heard = threading.Event()

    def cancel(self, canceller: Canceller) -> None:
        self.canceller = canceller
        self.heard.set()

    def load(self) -> dict[str, Any]:
        raise RuntimeError("a dict changed while it was read")


def controlled() -> tuple[Any, Control, socket.socket]:
    ours, theirs = socket.socketpair()
    actor: Any = Cancelled()
    return actor, Control(actor, ours), theirs


# ---- the control thread


def test_a_failure_of_the_control_thread_is_a_lost_parent_and_it_goes_on() -> None:
    actor, control, parent = controlled()
    control.start()
    parent.sendall(frame([_frames.LOAD, 1]))
    assert actor.heard.wait(30)
    assert actor.canceller.request is CancelRequest.PARENT_LOST
    assert parent.recv(1) == b"", "its parent hears of it"
    seen = threading.Event()

    def on_signal(number: int) -> None:
        seen.set()

    control._on_signal = on_signal  # type: ignore[method-assign]
    control._woken.send(b"\x0f")
    assert seen.wait(30)


@pytest.mark.parametrize("data", [frame([_frames.CANCEL, 0, 0, 7]), frame([_frames.STOOD, "x"]), frame([_frames.OBITUARY]), b"\0\0\0\0"])
def test_a_parent_that_can_not_be_understood_is_none(data: bytes) -> None:
    actor, control, parent = controlled()
    control.start()
    parent.sendall(data)
    assert actor.heard.wait(30)
    assert actor.canceller.request is CancelRequest.PARENT_LOST and parent.recv(1) == b""


def test_a_lost_parent_is_the_end_by_the_grace_also_of_who_is_leaving() -> None:
    actor, control, _parent = controlled()
    control.end()
    control._on_parent_lost()
    assert actor.canceller is None and control._kill_at is not None
    assert control._wait_ms() == MAX_WAIT_MS, "which is less than that grace"


def test_a_signal_from_outside_is_the_end_by_the_grace() -> None:
    actor, control, _parent = controlled()
    control._on_signal(15)
    assert control._own_signal is not None and control._kill_at is None
    control._own_signal = (15, time.monotonic())
    control._on_time()
    assert actor.died_by == 15 and actor.canceller.request is CancelRequest.SIGNAL
    assert control._kill_at is not None and control._own_signal is None


# ---- plain functions


def test_plain_functions_share_the_threads() -> None:
    async def main() -> None:
        threads = Threads(asyncio.get_running_loop(), 3)
        meet = threading.Barrier(3)
        names = await asyncio.gather(*(threads.run(lambda: (meet.wait(30), threading.current_thread().name)[1]).result for _ in range(9)))
        assert sorted(set(names)) == ["teamster-call_0", "teamster-call_1", "teamster-call_2"]
        with pytest.raises(ZeroDivisionError):
            await threads.run(lambda: 1 // 0).result
        given_up = threads.run(lambda: 1)
        given_up.cancel()
        one = [await threads.run(lambda: threading.current_thread().name).result for _ in range(5)]
        assert set(one) <= set(names)

    asyncio.run(main())


def test_one_thread_is_enough_for_one_call_after_the_other() -> None:
    async def main() -> None:
        threads = Threads(asyncio.get_running_loop(), 3)
        names = {await threads.run(lambda: threading.current_thread().name).result for _ in range(20)}
        assert names == {"teamster-call_0"}

    asyncio.run(main())


def test_a_function_that_blocks_holds_up_no_exit() -> None:
    script = """
import asyncio, threading
from teamster._threads import Threads

async def main():
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()
    def block():
        loop.call_soon_threadsafe(begun.set)
        threading.Event().wait()
    blocked = Threads(loop, 1).run(block).result
    await begun.wait()
    raise SystemExit(7)

asyncio.run(main())
"""
    ended = subprocess.run([sys.executable, "-c", script], timeout=60, env={"PYTHONPATH": SOURCE}, capture_output=True)
    assert (ended.returncode, ended.stderr) == (7, b"")


# ---- around the end


def test_what_runs_is_waited_for_also_where_its_line_is_gone() -> None:
    async def main() -> list[str]:
        events: list[str] = []
        go_on = asyncio.Event()

        async def cleans_up() -> None:
            await go_on.wait()
            events.append("cleaned up")

        task = asyncio.create_task(cleans_up())
        actor: Any = SimpleNamespace(
            canceller=Canceller(PARENT, CancelRequest.PARENT_LOST),
            running=[SimpleNamespace(task=task)],
            lines=[],
            parent_line=None,
            control=SimpleNamespace(end=lambda: events.append("ended")),
        )
        ending = asyncio.create_task(_actor._wind_down(actor, None))
        for _ in range(20):
            await asyncio.sleep(0)
        go_on.set()
        await ending
        return events

    assert asyncio.run(main()) == ["cleaned up", "ended"]



def test_who_knocks_while_descriptors_have_run_out_is_let_in_later() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        answers: list[Any] = [OSError(errno.EMFILE, "too many"), OSError(errno.ECONNABORTED, "gone"), (ours, None), OSError(errno.EBADF, "bad")]
        let_in: list[socket.socket] = []

        async def sock_accept(_listener: object) -> Any:
            answer = answers.pop(0)
            if isinstance(answer, OSError):
                raise answer
            return answer

        async def _let_in(sock: socket.socket) -> None:
            let_in.append(sock)

        stub: Any = SimpleNamespace(loop=SimpleNamespace(sock_accept=sock_accept, create_task=loop.create_task), _let_in=_let_in)
        with pytest.raises(OSError, match="bad"):
            await _actor.Actor.accept(stub, theirs)
        assert not answers

    asyncio.run(main())


def test_a_line_that_is_logged_after_the_end_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    loop = asyncio.new_event_loop()
    actor: Any = SimpleNamespace(loop=loop)
    loop.close()
    handler = _logs.Upwards(actor, _logs.Directives("info"))
    for level in (logging.INFO, logging.WARNING):
        handler.emit(logging.LogRecord("a.b", level, "file.py", 1, "said %s", (logging.getLevelName(level),), None))
    assert capsys.readouterr().err == "said WARNING\n"


def test_an_answer_that_is_no_welcome_is_an_error_of_the_transport() -> None:
    for header in ([], [_frames.BYE], [_frames.WELCOME], [_frames.WELCOME, 7], [_frames.WELCOME, [1, 0], {}, 5], [_frames.WELCOME, [1, 0], PARENT.header(), "x"]):
        with pytest.raises(errors.TransportError):
            _actor.welcomed(header)
