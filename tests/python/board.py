"""What `tests/support/board.rs` and `tests/support/one.rs` are to the suites' Rust actors: who runs here, what was said."""

import asyncio
import contextlib
import os
import resource

import teamster
from teamster._actor import this

SUITE = os.environ["TEAMSTER_TEST_SUITE"]


def rpc(path):
    return teamster.rpc(name=f"{SUITE}::{path}")


def context(path):
    return teamster.context(name=f"{SUITE}::{path}")


def open_dialogs():
    return sum(len(line.serving) + len(line.calls) for line in this().lines)


# ---- who runs here, what was said

running_now = 0
said = []
changed = None


@contextlib.contextmanager
def guard():
    global running_now
    running_now += 1
    tell()
    try:
        yield
    finally:
        running_now -= 1
        tell()


def tell():
    if changed is not None:
        for future in changed:
            if not future.done():
                future.set_result(None)
        changed.clear()


async def until(is_so):
    global changed
    changed = [] if changed is None else changed
    while not is_so():
        future = asyncio.get_running_loop().create_future()
        changed.append(future)
        await future


@rpc("board::running")
async def running():
    return running_now


@rpc("board::runs")
async def runs(count):
    await until(lambda: running_now == count)


@rpc("board::dialogs")
async def board_dialogs():
    return open_dialogs() - 1


def say_here(word):
    said.append(word)
    tell()


async def heard(word):
    await until(lambda: word in said)


async def first_heard(words):
    await until(lambda: any(word in words for word in said))
    return next(word for word in said if word in words)


async def leaves():
    """What a task that was just made has to say leaves, after which its maker is stuck: no await follows. A cancel may
    be here as soon as that is heard, and is looked for by `teamster.is_cancelled()`."""
    with contextlib.suppress(asyncio.CancelledError):
        for _ in range(3):
            await asyncio.sleep(0)


@rpc("board::say")
async def say(word):
    say_here(word)


@rpc("board::hears")
async def hears(word):
    await heard(word)


@rpc("board::wipe")
async def wipe():
    said.clear()


@rpc("one::guards")
async def guards():
    return running_now


@rpc("one::dialogs")
async def one_dialogs():
    return open_dialogs()


permits = asyncio.Semaphore(0)


@rpc("one::let_go")
async def let_go():
    permits.release()


async def held():
    """In the order in which they came: who let one go may be the one that is let go."""
    await permits.acquire()


@rpc("one::resident")
async def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()
