"""What the actor of tests/python.rs does, written in Python."""

import asyncio
import functools
import logging
import os
import sys
import threading
import time

import teamster
from teamster import sync


@teamster.rpc
async def square(n):
    return n * n


@teamster.rpc
def slow_square(n):
    time.sleep(0.001)
    return n * n


@teamster.rpc
async def pid():
    return os.getpid()


@teamster.rpc
async def echo(value):
    return value


@teamster.rpc
async def fail(text):
    try:
        raise KeyError("the first")
    except KeyError as error:
        raise ValueError(text) from error


@teamster.rpc
async def exit_with(status):
    sys.exit(status)


EVENTS = []


@teamster.rpc
def logs(text):
    logging.getLogger("callee.part").warning("it says %s", text)


@teamster.rpc
async def events():
    return EVENTS


@teamster.rpc
async def hold(file):
    try:
        EVENTS.append("holds")
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        EVENTS.append(f"cancelled by {teamster.canceller().aid.name}")
        raise
    finally:
        await asyncio.sleep(0.01)
        EVENTS.append("cleaned up")
        if file:
            with open(file, "w") as out:
                out.write("cleaned up")


@teamster.rpc
async def swallow():
    EVENTS.append("holds")
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            EVENTS.append("swallowed")


@teamster.rpc
async def cancels_itself():
    asyncio.current_task().cancel()
    await asyncio.sleep(0)


@teamster.rpc
async def block(file):
    with open(file, "w"):
        pass
    time.sleep(3600)


@teamster.rpc
def block_in_thread(file):
    with open(file, "w"):
        pass
    threading.Event().wait()


@teamster.rpc
async def clean_up(begun, cleaned):
    try:
        with open(begun, "w"):
            pass
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0.01)
        with open(cleaned, "w"):
            pass


@teamster.rpc
async def spin(file):
    with open(file, "w"):
        pass
    while not teamster.is_cancelled():
        pass
    return "saw it"


@teamster.rpc
def spin_in_thread(file):
    with open(file, "w"):
        pass
    while not teamster.is_cancelled():
        time.sleep(0.001)
    with open(file + ".seen", "w"):
        pass


@teamster.rpc
async def ask_parent(path, args):
    return await teamster.parent().call(path, *args)


@teamster.rpc
def ask_parent_from_thread(path, args):
    return sync.parent().call(path, *args)


@teamster.rpc
async def ask(portal, path, args):
    return await teamster.Portal.of(portal).call(path, *args)


@teamster.rpc
async def ticks(count):
    for n in range(count):
        yield n


@teamster.rpc
async def ticks_that_fail(count, length):
    for n in range(count):
        yield n
    raise ValueError("no more ticks".ljust(length, "."))


@teamster.rpc
def ticks_in_thread(count):
    try:
        yield from range(count)
    finally:
        EVENTS.append("the ticks are over")


@teamster.rpc
def ticks_in_thread_that_fail(count, length):
    yield from range(count)
    raise ValueError("no more ticks".ljust(length, "."))


def noted(function):
    """As decorators of all kinds do: what stands around an `async def` is a plain function."""

    @functools.wraps(function)
    def around(*args):
        EVENTS.append(f"{function.__name__} is called")
        return function(*args)

    return around


@teamster.rpc
@noted
async def decorated(n):
    await asyncio.sleep(0)
    return n + 1


@teamster.rpc
@noted
async def decorated_hold(file):
    return await hold(file)


@teamster.context
@noted
async def decorated_count(ctx, start):
    return await count(ctx, start)


@teamster.context
async def count(ctx, start):
    await ctx.started(start)
    async with ctx.open_stream() as stream:
        async for word in stream:
            start += len(word)
            await stream.send(start)
    return start


@teamster.context
def count_in_thread(ctx, start):
    ctx.started(start)
    with ctx.open_stream() as stream:
        for word in stream:
            start += len(word)
            stream.send(start)
    return start


if __name__ == "__main__":
    teamster.run()
