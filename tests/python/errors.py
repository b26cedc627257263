"""The callee of tests/errors.rs."""

import asyncio
import ctypes
import os

import board
import teamster


class Full(Exception):
    """No seat is left."""


@teamster.rpc
async def book(row):
    if row > 5:
        raise Full(f"no seat in row {row}")
    return row


@teamster.rpc
async def ask(other, row):
    return await teamster.Portal.of(other).call("errors::book", row)


@teamster.rpc
async def ask_parent(row):
    return await teamster.parent().call("errors::book", row)


@teamster.rpc
async def fail_when_two_are_at(meeting):
    await teamster.Portal.of(meeting).call("errors::arrived", 2)
    raise OSError("the first cause")


@teamster.rpc
async def fail_when_cancelled(meeting):
    meeting = teamster.Portal.of(meeting)
    await meeting.call("errors::book", 1)  # the line is there: the next call leaves as soon as its task has begun
    arriving = asyncio.ensure_future(meeting.call("errors::arrive"))
    await board.leaves()
    while not teamster.is_cancelled():
        pass
    arriving.cancel()
    raise OSError("it could not save")


@teamster.rpc
async def sleep_for_ever():
    await asyncio.Event().wait()


@teamster.rpc
async def crash(how):
    match how:
        case "Abort":
            os.abort()
        case "Segfault":
            ctypes.string_at(64)


@teamster.rpc
async def crash_by(other, how):
    await teamster.Portal.of(other).call("errors::crash", how)


teamster.run()
