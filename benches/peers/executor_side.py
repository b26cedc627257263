"""concurrent.futures.ProcessPoolExecutor, by the start method that is this Python's default."""
import multiprocessing
import platform
from concurrent.futures import ProcessPoolExecutor
from time import perf_counter

from side import WORKERS, answer, asks, echo, empty, large_value, rate, timed


def start(_):
    begin = perf_counter()
    with ProcessPoolExecutor(1) as pool:
        pool.submit(empty, 0).result()
        return perf_counter() - begin


def measure(pool, what, count):
    match what:
        case "start":
            return [start(n) for n in range(count)]
        case "round_trip":
            return timed(lambda n: pool.submit(empty, n).result(), count)
        case "submit":
            return rate(count, lambda: [job.result() for job in [pool.submit(empty, n) for n in range(count)]])
        case "map_single":
            return rate(count, lambda: pool.map(empty, range(count)))  # its default is chunks of one
        case "map":
            return rate(count, lambda: pool.map(empty, range(count), chunksize=count // (4 * WORKERS)))
        case "echo":
            value = large_value()
            return timed(lambda _: pool.submit(echo, value).result(), count)
    raise ValueError(what)


def main():
    print(f"({platform.python_version()}, {multiprocessing.get_start_method()})", flush=True)
    with ProcessPoolExecutor(WORKERS) as pool:
        for what, count in asks():
            answer(measure(pool, what, count))


if __name__ == "__main__":
    main()
