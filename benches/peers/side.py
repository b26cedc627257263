"""What all Python sides share: the jobs, and answering lines on stdin (a measure, a count) with figures on stdout."""
import sys
from functools import cache
from time import perf_counter

WORKERS = 2
LARGE_BYTES = 64 << 20


def empty(n):
    return n


def echo(value):
    return value


@cache
def large_value():
    """Made when it is first wanted: until then it counts for nobody's memory."""
    return bytes(n % 251 for n in range(251 * 4096)) * (LARGE_BYTES // (251 * 4096) + 1)


def asks():
    for line in sys.stdin:
        what, count = line.split()
        yield what, int(count)


def answer(figures):
    print(*figures, flush=True)


def timed(what, count):
    """Seconds of each of `count` calls."""
    times = []
    for n in range(count):
        begin = perf_counter()
        what(n)
        times.append(perf_counter() - begin)
    return times


def rate(count, what):
    """Jobs a second, where `what` does `count` of them and gives all results."""
    begin = perf_counter()
    results = list(what())
    seconds = perf_counter() - begin
    assert len(results) == count
    return [count / seconds]
