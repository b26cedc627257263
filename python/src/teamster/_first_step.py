"""How does a task take its first step at once, and not when the loop comes round?"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Protocol


class Owner(Protocol):
    """Who has the task."""

    task: asyncio.Task[None] | None


if sys.version_info >= (3, 12):

    class FirstSteps:
        """Makes tasks that have taken their first step. No other task may run meanwhile."""

        def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
            self._loop = loop

        def begin(self, owner: Owner, run: Coroutine[Any, Any, None]) -> None:
            """Makes `owner.task`. While that takes its first step, its owner may not know it yet."""
            if self._loop.get_task_factory() is None:
                task = asyncio.Task(run, loop=self._loop, eager_start=True)
                if not task.done():
                    owner.task = task
            else:
                owner.task = self._loop.create_task(run)  # which of its steps come at once, the factory says

else:

    class FirstSteps:
        """The same. A task that is made asks its loop for its first step by `call_soon`: here it is heard at once.

        A task that is replaced by something of our own until it has to wait would be faster still. But whoever asks for
        the current task may keep it, cancel it or look inside, as `asyncio.timeout` does: so it is a real one.
        """

        def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
            self._loop = loop
            self._asked: list[tuple[Callable[..., object], tuple[Any, ...], Any]] = []

        def begin(self, owner: Owner, run: Coroutine[Any, Any, None]) -> None:
            loop: Any = self._loop
            if loop.get_task_factory() is not None:
                owner.task = loop.create_task(run)
                return
            kept = loop.call_soon
            try:
                loop.call_soon = self._call_soon
            except AttributeError:  # a loop whose methods can't be replaced
                owner.task = loop.create_task(run)
                return
            try:
                owner.task = task = asyncio.Task(run, loop=loop)
            finally:
                loop.call_soon = kept
            if len(self._asked) > 1:
                self._give_back(task)
            step, _, context = self._asked.pop()
            context.run(step)

        def _call_soon(self, callback: Callable[..., object], *args: Any, context: Any = None) -> None:
            self._asked.append((callback, args, context))

        def _give_back(self, task: asyncio.Task[None]) -> None:
            """Somebody else was heard, too: what the collector of garbage ends may run any code."""
            asked, self._asked = self._asked, []
            for callback, args, context in asked:
                if getattr(callback, "__self__", None) is task:
                    self._asked.append((callback, args, context))
                else:
                    self._loop.call_soon(callback, *args, context=context)


__all__ = ["FirstSteps"]
