"""Where do plain functions run, which may block? In threads that hold up nobody's end."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any

class Job:
    """A function that waits for a thread, or has one. Whoever cancels it while it waits has it end at once, unrun."""

    def __init__(self, function: Callable[[], Any], result: asyncio.Future[Any]) -> None:
        self.function = function
        self.result = result
        self._taken = threading.Lock()

    def take(self) -> bool:
        """Whether it is ours: it goes to the first who asks, a thread that would run it or who cancels it."""
        return self._taken.acquire(blocking=False)

    def cancel(self) -> bool:
        """On the loop's thread."""
        return self.take() and self.result.cancel()


class Threads:
    """At most so many, started as they are needed. Belongs to the loop's thread.

    Those of `concurrent.futures` are waited for when the interpreter ends: a function that blocks would keep the
    process of an actor that has died. These are daemons.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, most: int) -> None:
        self._loop = loop
        self._most = most
        self._started = 0
        self._unfinished = 0
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()

    def run(self, function: Callable[[], Any]) -> Job:
        """Calls it in a thread, when one is free."""
        result: asyncio.Future[Any] = self._loop.create_future()
        self._unfinished += 1
        if self._unfinished > self._started and self._started < self._most:
            self._start()
        job = Job(function, result)
        self._jobs.put(job)
        return job

    def _start(self) -> None:
        try:
            threading.Thread(target=self._work, name=f"teamster-call_{self._started}", daemon=True).start()
        except RuntimeError:  # the system has none left
            if not self._started:
                self._unfinished -= 1
                raise
        else:
            self._started += 1

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            value, error = None, None
            try:
                if job.take():
                    value = job.function()
            except BaseException as raised:  # its caller's, whatever it is
                error = raised
            try:
                self._loop.call_soon_threadsafe(self._finish, job.result, value, error)
            except RuntimeError:  # the loop is closed
                return
            del job, value, error  # nothing of it is kept until the next one comes

    def _finish(self, result: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
        self._unfinished -= 1
        if result.done():
            return  # nobody waits any more
        if error is None:
            result.set_result(value)
        else:
            result.set_exception(error)
