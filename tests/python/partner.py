"""The callee of the suites contexts, context_races, streams and stream_ends, written in Python: the same endpoints under the
same paths. The suites take it where `TEAMSTER_TEST_CALLEE` is `python`."""

import asyncio
import contextlib
import socket
import struct
import sys

import teamster
from board import SUITE, context, first_heard, guard, heard, held, leaves, resident, rpc, say_here, tell, until
from teamster._actor import this


@rpc("add")
async def add(a, b):
    return a + b


def handle_of(ctx):
    global handle_now
    handle_now = ctx.handle()
    tell()


handle_now = None

# ---- contexts.rs


@context("simple")
async def simple(ctx, start):
    with guard():
        await ctx.started(start + 1)
        return f"done with {start}"


@context("holds")
async def holds(ctx):
    with guard():
        await ctx.started(7)
        await asyncio.Event().wait()


@context("plays")
async def plays(ctx, steps):
    stream, total = None, 0
    with guard():
        for step in steps:
            match step:
                case "Start":
                    await ctx.started(7)
                case "Open":
                    stream = ctx.open_stream()
                case {"Item": item}:
                    await stream.send(item)
                case "Stream":
                    item = 0
                    while True:
                        await stream.send(item)
                        item += 1
                case "Receive":
                    total += await stream.recv()
                case "Drain":
                    async for item in stream:
                        total += item
                case "Finish":
                    await stream.finish()
                case "Wait":
                    await heard("go")
                case "Hold":
                    await asyncio.Event().wait()
                case "Fail":
                    raise OSError("the callee failed")
                case "CancelItself":
                    ctx.cancel()
                    await asyncio.sleep(0)
                case "Say":
                    say_here("there")
        return total


@context("cleans_up")
async def cleans_up(ctx):
    with guard():
        await ctx.started(7)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            say_here("cleaned up")


@context("fails_when_cancelled")
async def fails_when_cancelled(ctx):
    with guard():
        await ctx.started(7)
        telling = asyncio.ensure_future(teamster.parent().call(f"{SUITE}::board::say", "stuck"))
        await leaves()
        while not teamster.is_cancelled():
            pass
        telling.cancel()
        raise OSError("the clean-up failed")


@context("hands_out")
async def hands_out(ctx, starts):
    with guard():
        handle_of(ctx)
        if starts:
            await ctx.started(ctx.handle())
        await asyncio.Event().wait()


@rpc("handle")
async def handle():
    await until(lambda: handle_now is not None)
    return handle_now


@context("gives_up")
async def gives_up(ctx):
    with guard():
        await ctx.started()
        ctx.cancel()
        await asyncio.Event().wait()


@context("cancels_itself_in_a_shield")
async def cancels_itself_in_a_shield(ctx):
    with guard():
        await ctx.started()
        ctx.cancel()
        try:
            ctx.open_stream()
        except teamster.Misused as refused:
            say_here(str(refused))
        await asyncio.sleep(0)


async def goes_on(ctx, sends):
    with guard():
        await ctx.started()
        stream = ctx.open_stream(overrun_after=3600)
        while sends:
            await stream.send("x" * 1000)
        async for _ in stream:
            pass
        await asyncio.Event().wait()


@rpc("memory_kib")
async def memory_kib():
    return await resident() // 1024


@context("calls")
async def calls(ctx, callee, steps, opens, caller):
    with guard():
        async with teamster.Portal.of(callee).open_context(f"{SUITE}::plays", steps) as inner:
            if opens:
                inner.open_stream()
            await ctx.started()
            match caller:
                case "EndsWell" if "Hold" in steps:
                    await inner.cancel()
                case "EndsWell":
                    await inner.result()
                case "Fails":
                    raise OSError("the body failed")
                case _:
                    await asyncio.Event().wait()
        return inner.first


@rpc("keeps_one_in")
async def keeps_one_in(portal, word):
    async with teamster.Portal.of(portal).open_context(f"{SUITE}::cleans_up") as inner:
        say_here(word)
        await heard("go")
        await inner.cancel()


@rpc("drops_many")
async def drops_many(portal, count):
    before = 0
    for number in range(2 * count):
        if number == count:
            before = await memory_kib()
        async with teamster.Portal.of(portal).open_context(f"{SUITE}::holds") as inner:
            await inner.cancel()
    return max(await memory_kib() - before, 0)


@context("fails_and_cancels")
async def fails_and_cancels(ctx, fourth, owned):
    with guard():
        async with teamster.Portal.of(fourth).open_context(f"{SUITE}::holds") as inner:
            await ctx.started()
            if owned:
                await inner.cancel()
            raise OSError("the callee failed")


@rpc("opens_one_into_itself")
async def opens_one_into_itself():
    me = teamster.this_actor()
    async with me.open_context(f"{SUITE}::plays", ["Start", "Open", "Receive", {"Item": 2}]) as ctx:
        stream = ctx.open_stream()
        await stream.send(1)
        assert (await stream.recv(), await ctx.result()) == (2, 1)
    async with me.open_context(f"{SUITE}::holds") as ctx:
        await ctx.cancel()
    try:
        async with me.open_context(f"{SUITE}::plays", ["Start", "Fail"]):
            await asyncio.Event().wait()
    except teamster.RemoteError as failed:
        assert failed.message == "the callee failed"
    else:
        raise AssertionError("it fails")
    try:
        async with me.open_context(f"{SUITE}::plays", ["Start", "CancelItself"]):
            pass
    except teamster.Cancelled as by:
        assert by.canceller == teamster.Canceller(me.aid, teamster.CancelRequest.ITSELF)
    else:
        raise AssertionError("it is cancelled")


@rpc("cancel_by")
async def cancel_by(handle):
    await teamster.ContextHandle.of(handle).cancel()


# ---- context_races.rs

VALUE = 7


@rpc("opens")
async def opens(callee, cell):
    block = asyncio.ensure_future(opens_block(teamster.Portal.of(callee), cell))
    dropped = asyncio.ensure_future(heard("drop"))
    done, _ = await asyncio.wait({block, dropped}, return_when=asyncio.FIRST_COMPLETED)
    dropped.cancel()
    if block in done:
        return await block
    block.cancel()
    await asyncio.wait({block})
    return "Nothing"


async def opens_block(callee, cell):
    try:
        return {VALUE: "Value", RESULT: "CalleesResult"}[await opens_body(callee, cell)]
    except asyncio.CancelledError:
        raise
    except teamster.RemoteError as error:
        if error.message == "the callee fails":
            return "CalleesError"
        if error.panic and error.message == "the callee panics":
            return "CalleesPanic"
        return "NoFirstWord" if "without `started`" in error.message else {"Other": str(error)}
    except teamster.Cancelled as error:
        by = {"third": "CancelledByTheThird", "root": "CancelledByTheRoot"}
        return by.get(error.canceller.aid.name, {"Other": str(error)})
    except teamster.Unknown as error:
        return "Unknown" if error.aid.name == "callee" else {"Other": str(error)}
    except Exception as error:
        return "BodysError" if str(error) == "the body fails" else {"Other": repr(error)}


async def opens_body(callee, cell):
    event, moment = cell["event"], cell["moment"]
    async with callee.open_context(f"{SUITE}::waits", cell) as ctx:
        assert ctx.first == 1
        stream = None
        if moment in ("Streaming", "HalfClosed", "Draining"):
            stream = ctx.open_stream()
            await stream.send(2)
            assert await stream.recv() == 0
        if moment == "HalfClosed":
            await stream.finish()
        say_here("there")
        if moment != "Draining" and event in ("CallerReturns", "CallerFails", "CallerCancels"):
            await keep_going(stream)
        if event == "CallerFails":
            raise OSError("the body fails")
        if event == "CallerCancels":
            await ctx.cancel()
        elif event != "CallerReturns" and moment != "Draining":
            if event == "CallerIsDropped":
                await asyncio.Event().wait()
            if stream is not None:
                async for _ in stream:
                    pass
            return await ctx.result()
    return VALUE


async def keep_going(stream):
    end = asyncio.ensure_future(heard("go"))
    if stream is not None:
        while not end.done():
            item = asyncio.ensure_future(stream.recv())
            await asyncio.wait({end, item}, return_when=asyncio.FIRST_COMPLETED)
            item.cancel()
            await asyncio.wait({item})
    await end


async def goes_on_again(callee):
    callee = teamster.Portal.of(callee)
    await callee.call(f"{SUITE}::board::wipe")
    cell = {"event": "CallerCancels", "moment": "Streaming"}
    async with callee.open_context(f"{SUITE}::waits", cell) as ctx:
        stream = ctx.open_stream()
        await stream.send(2)
        assert [await stream.recv(), await stream.recv()] == [0, 1]
        await ctx.cancel()


if SUITE == "contexts":
    context("goes_on")(goes_on)
else:
    rpc("goes_on")(goes_on_again)


@rpc("lose_line")
async def lose_line(to):
    cut = 0
    for line in list(this().lines):
        sock = line.transport.sock
        pid, _, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if pid == to:
            sock.shutdown(socket.SHUT_RDWR)
            cut += 1
    assert cut > 0, "there is a line between the two"



RESULT = 8


@context("waits")
async def waits(ctx, cell):
    with guard():
        event, moment = cell["event"], cell["moment"]
        handle_of(ctx)
        if moment == "BeforeStarted":
            say_here("there")
            return await do_as_told()
        await ctx.started(1)
        if moment == "AfterStarted":
            say_here("there")
            return await do_as_told()
        stream = ctx.open_stream()
        assert await stream.recv() == 2
        await stream.send(0)
        if moment == "Draining":
            return await drains(stream, event)
        sending = asyncio.ensure_future(send_for_ever(stream))
        try:
            if moment == "HalfClosed":
                async for _ in stream:
                    raise AssertionError("nothing was sent")
            say_here("there")
            telling = asyncio.ensure_future(do_as_told())
            done, _ = await asyncio.wait({sending, telling}, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            sending.cancel()


async def send_for_ever(stream):
    item = 1
    while True:
        await stream.send(item)
        item += 1


async def drains(stream, event):
    if event not in ("CallerFails", "CallerCancels"):
        async for _ in stream:
            pass
        say_here("there")
        return await do_as_told()
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        say_here("there")
        return await do_as_told()


async def do_as_told():
    match await first_heard(["return", "fail", "panic"]):
        case "return":
            return RESULT
        case "fail":
            raise OSError("the callee fails")
        case _:
            raise AssertionError("a Python program does not panic")


# ---- streams.rs


@context("numbers")
async def numbers(ctx, count):
    with guard():
        await ctx.started()
        stream = ctx.open_stream()
        for number in range(count):
            await stream.send(number)
        return count


async def give_back(ctx):
    with guard():
        await ctx.started()
        stream = ctx.open_stream()
        async for item in stream:
            await stream.send(item)


for path in ("echo", "unit_items", "unit_structs", "empty_structs", "trees", "byte_items", "texts"):
    context(path)(give_back)


@context("sums")
async def sums(ctx):
    await ctx.started()
    stream = ctx.open_stream()
    count = check = 0
    async for number in stream:
        count += 1
        mixed = (check ^ number) * 0x9E37_79B9_7F4A_7C15 % (1 << 64)
        check = (mixed << 17 | mixed >> 47) % (1 << 64)
    await stream.send(check)
    return count


@context("opens_none")
async def opens_none(ctx):
    with guard():
        await ctx.started()
        await asyncio.Event().wait()


async def fill(stream):
    sent = 0
    while True:
        try:
            await stream.send(1)
        except teamster.TeamsterError as error:
            return sent, error
        sent += 1


@context("overruns")
async def overruns(ctx):
    with guard():
        await ctx.started()
        sent, error = await fill(ctx.open_stream(overrun_after=0.02))
        assert sent == 16 * 1024, sent
        raise error


FLOOD = 400_000
FOR_CREDIT = 30


@context("slow_callee")
async def slow_callee(ctx, allows):
    with guard():
        if allows:
            ctx.allow_overruns()
        await ctx.started()
        await held()
        stream, read, last = ctx.open_stream(), 0, -1
        async for number in stream:
            assert number > last, (number, last)
            read, last = read + 1, number
        return {"read": read, "dropped": stream.dropped}


@context("fast_callee")
async def fast_callee(ctx, allows, patient):
    with guard():
        if allows:
            ctx.allow_overruns()
        await ctx.started()
        stream = ctx.open_stream(overrun_after=FOR_CREDIT if patient else 0)
        for number in range(FLOOD):
            await stream.send(number)
        await stream.finish()


@context("latest")
async def latest(ctx):
    ctx.allow_overruns()
    await ctx.started()
    stream = ctx.open_stream()
    await held()
    newest = read = 0
    async for frame in stream:
        newest, read = frame[0], read + 1
    return newest, read, stream.dropped


@context("slow_reader")
async def slow_reader(ctx):
    with guard():
        await ctx.started()
        expected = 0
        async for number, block in ctx.open_stream():
            assert (number, len(block)) == (expected, 16 * 1024)
            expected += 1
            if expected == 100:
                await held()
        return expected


@context("only_sends")
async def only_sends(ctx):
    with guard():
        await ctx.started()
        stream = ctx.open_stream()
        while True:
            await stream.send(7)


@context("answers_after_the_end")
async def answers_after_the_end(ctx):
    await ctx.started()
    stream, total = ctx.open_stream(), 0
    async for number in stream:
        total += number
    for number in range(1000):
        await stream.send(number)
    return total


@context("one_by_one")
async def one_by_one(ctx):
    await ctx.started()
    stream, total = ctx.open_stream(), 0
    while True:
        await held()
        try:
            total += len(await stream.recv())
        except teamster.EndOfStream:
            return total


@context("returns_at_once")
async def returns_at_once(ctx):
    await ctx.started()
    ctx.open_stream()


@context("forwards")
async def forwards(ctx):
    await ctx.started()
    stream = ctx.open_stream()
    async for number in stream:
        await stream.send(number * 2)


@context("counts_both")
async def counts_both(ctx):
    await ctx.started()
    stream, count = ctx.open_stream(), 0
    for _ in range(400):
        await stream.send(b"\1" * 10_000)
    await stream.send(b"\1" * (10 << 20))
    async for _ in stream:
        count += 1
    return count


@context("two_tasks")
async def two_tasks(ctx):
    await ctx.started()
    stream = ctx.open_stream()
    answers, count = asyncio.Queue(8), 0

    async def receive():
        nonlocal count
        async for ping in stream:
            await answers.put(ping)
            count += 1
        await answers.put(None)

    async def send():
        for number in range(5000):
            await stream.send((0, number))
            if not answers.empty():
                ping = answers.get_nowait()
                if ping is None:
                    return
                await stream.send((1, ping))
        while (ping := await answers.get()) is not None:
            await stream.send((1, ping))

    async with asyncio.TaskGroup() as group:
        group.create_task(receive())
        group.create_task(send())
    return count


@rpc("every")
async def every(step, end):
    for number in range(0, end, step):
        yield number


# ---- both of streams.rs and stream_ends.rs, which differ

if SUITE == "streams":

    @rpc("fallible")
    async def fallible():
        yield {"Ok": 1}
        yield {"Err": "no two"}
        yield {"Ok": 3}

    @rpc("endless")
    async def endless():
        with guard():
            number = 0
            while True:
                yield number
                number += 1

    @context("both_ways")
    async def both_ways(ctx, items):
        await ctx.started()
        stream = ctx.open_stream()

        async def send():
            for number in range(items):
                await stream.send(number)
            await stream.finish()

        async def receive():
            expected = 0
            async for number in stream:
                assert number == expected
                expected += 1
            assert expected == items

        await asyncio.gather(send(), receive())

else:

    @context("endless")
    async def endless(ctx):
        with guard():
            await ctx.started()
            stream, number = ctx.open_stream(), 0
            while True:
                await stream.send(number)
                number += 1

    @context("both_ways")
    async def both_ways(ctx):
        with guard():
            await ctx.started()
            stream = ctx.open_stream()
            async for number in stream:
                await stream.send(number)
            await asyncio.Event().wait()


@context("stays")
async def stays(ctx):
    with guard():
        await ctx.started()
        stream, number = ctx.open_stream(), 0
        with contextlib.suppress(teamster.TeamsterError):
            while True:
                await stream.send(number)
                number += 1
        await asyncio.Event().wait()


@context("tells")
async def tells(ctx):
    with guard():
        await ctx.started()
        stream = ctx.open_stream()
        try:
            told = f"Ok(Some({await stream.recv()}))"
        except teamster.EndOfStream:
            told = "Ok(None)"
        await stream.send(told)
        await held()


@context("uses_the_group")
async def uses_the_group(ctx):
    with guard():
        await ctx.started()
        stream = ctx.open_stream()
        await stream.send(1)
        await held()
        raise OSError("a task of the group failed")


@context("counts")
async def counts(ctx):
    with guard():
        await ctx.started()
        count = 0
        async for _ in ctx.open_stream():
            count += 1
        return count


@context("returns_early")
async def returns_early(ctx, sends):
    await ctx.started()
    stream = ctx.open_stream()
    for number in range(sends):
        await stream.send(number)
    return "early"


if __name__ == "__main__":
    assert sys.argv[1:] == [], "the test harness's arguments are not ours"
    teamster.run()
