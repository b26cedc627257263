"""What tests/asyncio.rs runs."""

import asyncio
import atexit
import contextvars
import gc
import os
import signal
import sys
import threading
import time

import teamster

CLEANED = 0


class Sour(ValueError):
    pass


async def square(n):
    await asyncio.sleep(0)
    return n * n


async def kinds(*args, **keywords):
    return repr((args, keywords))


async def holds_itself():
    value = []
    value.append({"inside": (value,)})
    return value


async def nested(levels):
    value = 7
    for _ in range(levels):
        value = [value]
    return value


async def first_word_holds_itself(chan):
    chan.started_nowait(await holds_itself())
    await chan.get()


async def order(item, count, notes=None):
    return {"item": item, "count": count + 1, "notes": notes}


async def where():
    here = threading.current_thread() is threading.main_thread()
    return {"main": here, "loop": asyncio.get_running_loop().is_running(), "prefix": sys.prefix, "executable": sys.executable}


async def sigint_is_ours():
    return signal.getsignal(signal.SIGINT) is None


async def fail(text):
    await asyncio.sleep(0)
    try:
        raise KeyError("the first")
    except KeyError as error:
        raise Sour(text) from error


async def names_a_file():
    raise Sour(os.fsdecode(b"/no/such/\xff"))


async def caused_by_itself():
    first, second = ValueError("the first"), ValueError("the second")
    first.__cause__, second.__cause__ = second, first
    raise first


async def hold():
    global CLEANED
    try:
        await asyncio.sleep(3600)
    finally:
        await asyncio.sleep(0.05)
        CLEANED += 1
        print("cleaned up in python", flush=True)


async def say_without_an_end():
    atexit.register(print, ", and at the exit", end="")
    print("said in a line")
    print("said without an end", end="")


NAME = contextvars.ContextVar("NAME", default="nobody")


async def named(chan):
    """Wakes the other side from within a context of its own."""
    NAME.set("the first")
    chan.started_nowait(None)
    await chan.get()


async def name():
    return NAME.get()


async def cleaned():
    return CLEANED


async def cancel_itself():
    asyncio.current_task().cancel()
    await asyncio.sleep(3600)


async def stop_the_loop():
    asyncio.get_running_loop().stop()
    await hold()


async def exit_early():
    sys.exit(3)


async def swallow_once():
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        return "as if nothing had been"


async def swallow_for_ever(chan=None):
    if chan is not None:
        chan.started_nowait(True)
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass


async def block():
    time.sleep(60)


def not_async():
    return 3


# ---- channels


async def echo(chan, greeting="hello"):
    chan.started_nowait(greeting)
    count = 0
    async for value in chan:
        chan.send_nowait(value)
        count += 1
    return count


async def echo_by_get(chan, fails_at=None):
    chan.started_nowait(None)
    count = 0
    try:
        while True:
            value = await chan.get()
            count += 1
            if value == fails_at:
                raise Sour(f"no more than {count}")
            await chan.send(value)
    except teamster.EndOfChannel:
        return count


async def stops_at(chan, last):
    chan.started_nowait(None)
    while (value := await chan.get()) != last:
        await chan.send(value)
    await chan.send(last)
    return f"stopped at {last}"


SEEN = []


async def remember(chan):
    chan.started_nowait(None)
    SEEN.clear()
    try:
        async for value in chan:
            SEEN.append(value)
            chan.send_nowait(value)
    except BaseException as error:
        SEEN.append(type(error).__name__)
        raise


async def seen():
    return SEEN


async def two_consumers(chan):
    chan.started_nowait(None)

    async def consume(name):
        async for value in chan:
            await chan.send((name, value))
            await asyncio.sleep(0)

    await asyncio.gather(consume("a"), consume("b"))
    return "both are done"


async def count(chan, upto):
    """As fast as it is let."""
    chan.started_nowait(None)
    ahead = 0
    for n in range(upto):
        await chan.send(n)
    try:
        for n in range(1000):
            chan.send_nowait(n)
            ahead += 1
    except asyncio.QueueFull:
        pass
    return ahead


async def never_started(chan):
    await asyncio.sleep(0)


async def started_twice(chan):
    chan.started_nowait(1)
    chan.started_nowait(2)


async def sends_first(chan):
    chan.send_nowait(1)


async def fails_in_its_clean_up(chan, first=None):
    chan.started_nowait(first)
    try:
        await asyncio.sleep(3600)
    finally:
        await asyncio.sleep(0.05)
        raise Sour("while cleaning up")


async def hold_channel(chan, first=None):
    chan.started_nowait(first)
    await hold()


async def swallow_in_channel(chan):
    chan.started_nowait(None)
    return await swallow_once()


async def cancels_itself_in_channel(chan):
    chan.started_nowait(None)
    await cancel_itself()


def futures():
    gc.collect()
    return sum(isinstance(each, asyncio.Future) for each in gc.get_objects())


FIRST = None


async def two_getters(chan):
    global FIRST
    chan.started_nowait(None)
    FIRST = asyncio.create_task(chan.get())
    second = asyncio.create_task(chan.get())
    await asyncio.sleep(0)
    chan.send_nowait("both wait")
    chan.send_nowait(await second)
    return FIRST.cancelled()


def cancel_the_first():
    """At once: what was woken before has not run yet."""
    FIRST.cancel()
    return asyncio.sleep(0)


async def give_up_often(chan):
    """How many futures are left of getters and senders that were cancelled."""
    chan.started_nowait(None)
    before = futures()

    async def give_up(waiting):
        task = asyncio.create_task(waiting)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    for _ in range(200):
        await give_up(chan.get())
    try:
        while True:
            chan.send_nowait("fits")
    except asyncio.QueueFull:
        pass
    for _ in range(200):
        await give_up(chan.send("does not"))
    return futures() - before


async def futures_left():
    return futures()


async def last_words(chan):
    chan.started_nowait(None)
    chan.send_nowait("the last")
    return "as it should"


async def last_words_and_cancelled(chan):
    chan.started_nowait(None)
    chan.send_nowait("the last")
    raise asyncio.CancelledError()


# ---- the way back


async def call(name, path, args):
    return await teamster.call(name, path, args)


async def call_with_what_holds_itself():
    return await teamster.call("py", "tests.add", await holds_itself())


async def call_and_catch(name, path, args):
    try:
        await teamster.call(name, path, args)
    except teamster.RemoteError as error:
        return [str(error), error.report]


async def call_and_give_up(name, path):
    try:
        await asyncio.wait_for(teamster.call(name, path), 0.05)
    except asyncio.TimeoutError:
        return "late"


BACKGROUND = set()


async def in_the_background(name, path, then):
    """Waits for a call, and when that is cancelled makes another one."""

    async def call():
        try:
            await teamster.call(name, path)
        finally:
            print("and then", await teamster.call(name, then, (40, 2)), flush=True)

    BACKGROUND.add(asyncio.create_task(call()))
    await asyncio.sleep(0)


async def swallow_in_the_background():
    BACKGROUND.add(asyncio.create_task(swallow_for_ever(), name="the deaf one"))
    await asyncio.sleep(0)


LATE = []


async def beat(period):
    """Notes how much of the thread's own time has gone between one beat and the next."""
    loop = asyncio.get_running_loop()
    due = loop.time() + period
    last = time.thread_time()
    while True:
        await asyncio.sleep(max(0, due - loop.time()))
        due += period
        now = time.thread_time()
        LATE.append(now - last)
        last = now


async def beats():
    late = list(LATE)
    LATE.clear()
    return late
