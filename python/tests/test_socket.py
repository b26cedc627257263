"""Do all bytes of a line move, in order, at the pace of the slower side, and how does it end?"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from test_line import on_loop, turns

from teamster._socket import Socket

LONG = bytes(range(256)) * 16_384
"""More than a Unix socket takes at once."""


class Owner:
    def __init__(self) -> None:
        self.buffer = bytearray(4096)
        self.heard = bytearray()
        self.pauses: list[str] = []
        self.ends: list[Exception | None] = []
        self.ended = asyncio.Event()
        self.on_bytes: Callable[[], None] = lambda: None

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self.buffer)

    def buffer_updated(self, nbytes: int) -> None:
        self.heard += self.buffer[:nbytes]
        self.on_bytes()

    def connection_lost(self, exc: Exception | None) -> None:
        self.ends.append(exc)
        self.ended.set()

    def pause_writing(self) -> None:
        self.pauses.append("pause")

    def resume_writing(self) -> None:
        self.pauses.append("resume")


def connected() -> tuple[Owner, Socket, socket.socket]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    owner = Owner()
    transport = Socket(asyncio.get_running_loop(), ours, owner)
    transport.set_write_buffer_limits(high=1024)
    transport.start()
    return owner, transport, theirs


async def received(theirs: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count and (piece := await asyncio.get_running_loop().sock_recv(theirs, 65_536)):
        data += piece
    return bytes(data)


@on_loop
async def test_what_is_short_has_left_when_it_is_written() -> None:
    _, transport, theirs = connected()
    transport.write(b"one")
    assert theirs.recv(10) == b"one" and transport.get_write_buffer_size() == 0


@on_loop
async def test_what_is_long_leaves_in_order_and_its_owner_pauses() -> None:
    owner, transport, theirs = connected()
    transport.write(LONG)
    transport.write(b"and more")
    assert owner.pauses == ["pause"] and transport.get_write_buffer_size() > 1024
    assert await received(theirs, len(LONG) + 8) == LONG + b"and more"
    await turns()
    assert owner.pauses == ["pause", "resume"] and transport.get_write_buffer_size() == 0
    transport.write(b"x")
    assert await received(theirs, 1) == b"x"


@on_loop
async def test_a_lower_limit_counts_at_once() -> None:
    owner, transport, theirs = connected()
    transport.set_write_buffer_limits(high=2 * len(LONG))
    transport.write(LONG)
    assert not owner.pauses
    transport.set_write_buffer_limits(high=0)
    assert owner.pauses == ["pause"]
    await received(theirs, len(LONG))
    await turns()
    assert owner.pauses == ["pause", "resume"]


@on_loop
async def test_what_comes_is_read_to_its_end() -> None:
    owner, _, theirs = connected()
    await asyncio.get_running_loop().sock_sendall(theirs, LONG)
    theirs.close()
    await owner.ended.wait()
    assert owner.heard == LONG and owner.ends == [None]


@on_loop
async def test_closed_it_still_sends_what_was_written() -> None:
    owner, transport, theirs = connected()
    transport.write(LONG)
    transport.close()
    transport.close()
    transport.write(b"too late")
    assert transport.is_closing() and not owner.ends
    assert await received(theirs, len(LONG) + 1) == LONG, "and then its end"
    await owner.ended.wait()
    assert owner.ends == [None] and owner.pauses == ["pause"]


@on_loop
async def test_closed_while_it_reads_it_ends_once() -> None:
    owner, transport, theirs = connected()
    owner.on_bytes = transport.close
    theirs.send(b"x")
    await owner.ended.wait()
    await turns()
    assert owner.ends == [None] and owner.heard == b"x" and theirs.recv(1) == b""


@on_loop
async def test_who_is_gone_is_an_end_with_an_error_and_nothing_is_kept() -> None:
    owner, transport, theirs = connected()
    transport.write(LONG)
    theirs.close()
    await owner.ended.wait()
    [error] = owner.ends
    assert isinstance(error, OSError) and transport.get_write_buffer_size() == 0
    transport.write(b"x")
    await turns()
    assert len(owner.ends) == 1


@on_loop
async def test_a_write_to_who_is_gone_raises_nothing() -> None:
    owner, transport, theirs = connected()
    theirs.close()
    transport.write(b"x")
    transport.write(b"y")
    assert not owner.ends, "its owner hears of it when the loop comes round"
    await turns()
    [error] = owner.ends
    assert isinstance(error, BrokenPipeError)


@on_loop
async def test_a_mistake_in_reading_is_told_and_the_end() -> None:
    owner, _, theirs = connected()
    told: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context["exception"]))

    def fail() -> None:
        raise ZeroDivisionError

    owner.on_bytes = fail
    theirs.send(b"x")
    await owner.ended.wait()
    assert [type(error) for error in told] == [type(error) for error in owner.ends] == [ZeroDivisionError]
