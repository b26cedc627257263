"""multiprocessing.Pool, by the start method that is this Python's default."""
import multiprocessing
import platform
from multiprocessing import Pool
from time import perf_counter

from side import WORKERS, answer, asks, echo, empty, large_value, rate, timed


def start(_):
    begin = perf_counter()
    with Pool(1) as pool:
        pool.apply(empty, (0,))
        return perf_counter() - begin


def measure(pool, what, count):
    match what:
        case "start":
            return [start(n) for n in range(count)]
        case "round_trip":
            return timed(lambda n: pool.apply(empty, (n,)), count)
        case "submit":
            return rate(count, lambda: [job.get() for job in [pool.apply_async(empty, (n,)) for n in range(count)]])
        case "map_single":
            return rate(count, lambda: pool.map(empty, range(count), chunksize=1))
        case "map":
            return rate(count, lambda: pool.map(empty, range(count)))  # its default is four chunks for each worker
        case "echo":
            value = large_value()
            return timed(lambda _: pool.apply(echo, (value,)), count)
    raise ValueError(what)


def main():
    print(f"({platform.python_version()}, {multiprocessing.get_start_method()})", flush=True)
    with Pool(WORKERS) as pool:
        for what, count in asks():
            answer(measure(pool, what, count))


if __name__ == "__main__":
    main()
