"""The callee of tests/calls.rs."""

import asyncio
import contextlib
import os

import board
import teamster


@teamster.rpc
async def add(a, b):
    return a + b


@teamster.rpc
async def me():
    return teamster.this_actor()


@teamster.rpc
async def pid():
    return os.getpid()


# ---- values


async def echo(value):
    return value


SHAPES = "plain untagged adjacent internal flat skipping all bytes text portal unit options choosy"
for shape in SHAPES.split():
    teamster.rpc(name=f"calls::echo_{shape}")(echo)


@teamster.rpc
async def echo_by(other, value):
    return await teamster.Portal.of(other).call("calls::echo_untagged", value)


@teamster.rpc
async def length(data):
    return len(data)


@teamster.rpc
async def filled(length):
    return b"\1" * length


@teamster.rpc
async def bytes_of(other, length):
    return await teamster.Portal.of(other).call("calls::filled", length)


@teamster.context
async def says_first(ctx, length):
    await ctx.started(b"\1" * length)
    await ctx.open_stream().send(b"\1" * length)


# ---- from where to where


@teamster.rpc
async def add_by(other, a, b):
    return await teamster.Portal.of(other).call("calls::add", a, b)


@teamster.rpc
async def add_by_all(others, n):
    return sum(await asyncio.gather(*(teamster.Portal.of(other).call("calls::add", n, 1) for other in others)))


@teamster.rpc
async def factorial(n):
    return 1 if n == 0 else n * await teamster.this_actor().call("calls::factorial", n - 1)


@teamster.rpc
async def bounce(back, times):
    if times == 0:
        return 0
    return 1 + await teamster.Portal.of(back).call("calls::bounce", teamster.this_actor(), times - 1)


@teamster.rpc
async def parents_pid():
    return await teamster.parent().call("calls::pid")


# ---- many at once

turn = None


@teamster.rpc
async def in_turn(number):
    await board.until(lambda: turn == number)
    set_turn(number - 1)
    return number


@teamster.rpc
async def begin_at(number):
    set_turn(number)


def set_turn(number):
    global turn
    turn = number
    board.tell()


# ---- deadlines


@contextlib.contextmanager
def held_on(file=None):
    """Shows by a file, too, that it holds on: for those who can't wait."""
    if file is not None:
        open(file, "w").close()
    try:
        with board.guard():
            yield
    finally:
        if file is not None:
            os.remove(file)


@teamster.rpc
async def hold(file):
    with held_on(file):
        await asyncio.Event().wait()


@teamster.rpc
async def held(wanted):
    await board.runs(wanted)


@teamster.rpc
async def hold_by(other, within):
    with held_on():
        seconds = within["secs"] + within["nanos"] / 1e9
        await teamster.Portal.of(other).call("calls::hold", None, timeout=seconds)


stuck = False


@teamster.rpc
async def was_stuck():
    return stuck


@teamster.rpc
async def be_stuck_while_held(other, file):
    global stuck
    other = teamster.Portal.of(other)
    await other.call("calls::pid")  # the line is there: the next call leaves as soon as its task has begun
    holding = asyncio.ensure_future(other.call("calls::hold", file))
    await board.leaves()
    try:
        while not os.path.exists(file) and not teamster.is_cancelled():
            pass
        if os.path.exists(file):
            stuck = True
            while os.path.exists(file):
                pass
    finally:
        holding.cancel()


# ---- what can't be called


@teamster.rpc(name="shop.total")
async def total(count, price):
    return count * price


@teamster.rpc
async def keep(secret):
    pass


@teamster.rpc
async def tell():
    return object()


teamster.run()
