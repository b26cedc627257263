"""One hop to another asyncio task and back: through a channel, and through two queues."""

import asyncio
import time


async def echo(chan):
    chan.started_nowait(None)
    while True:
        chan.send_nowait(await chan.get())


async def queues(count):
    there, back = asyncio.Queue(), asyncio.Queue()

    async def other():
        while True:
            back.put_nowait(await there.get())

    task = asyncio.create_task(other())
    times = []
    for n in range(count):
        begin = time.perf_counter()
        there.put_nowait(n)
        await back.get()
        times.append((time.perf_counter() - begin) * 1e6)
    task.cancel()
    return times
