"""trio-parallel, by its default start method. It has no `map`."""
from importlib.metadata import version
from time import perf_counter

import trio
import trio_parallel

from side import WORKERS, answer, asks, echo, empty, large_value


async def start():
    begin = perf_counter()
    async with trio_parallel.open_worker_context() as pool:
        await pool.run_sync(empty, 0)
        return perf_counter() - begin


async def timed(job, count):
    times = []
    for n in range(count):
        begin = perf_counter()
        await job(n)
        times.append(perf_counter() - begin)
    return times


async def submit(pool, limiter, count):
    begin = perf_counter()
    results = []

    async def one(n):
        results.append(await pool.run_sync(empty, n, limiter=limiter))

    async with trio.open_nursery() as nursery:
        for n in range(count):
            nursery.start_soon(one, n)
    assert len(results) == count
    return [count / (perf_counter() - begin)]


async def measure(pool, limiter, what, count):
    match what:
        case "start":
            return [await start() for _ in range(count)]
        case "round_trip":
            return await timed(lambda n: pool.run_sync(empty, n, limiter=limiter), count)
        case "submit":
            return await submit(pool, limiter, count)
        case "map_single" | "map":
            return []
        case "echo":
            value = large_value()
            return await timed(lambda _: pool.run_sync(echo, value, limiter=limiter), count)
    raise ValueError(what)


async def main():
    print(f"{version('trio-parallel')} ({trio_parallel.WorkerType.SPAWN.value})", flush=True)
    limiter = trio.CapacityLimiter(WORKERS)
    async with trio_parallel.open_worker_context() as pool:
        for what, count in asks():
            answer(await measure(pool, limiter, what, count))


if __name__ == "__main__":
    trio.run(main)
