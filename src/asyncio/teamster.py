"""What asyncio code in an actor has of its tree."""

import asyncio
import atexit
import os
import site
import sys


class EndOfChannel(Exception):
    """The other side sends nothing any more, or takes nothing."""


class RemoteError(Exception):
    """What a call of another actor has failed with."""

    def __init__(self, message, report, error):
        super().__init__(message)
        self.report = report
        self._error = error


async def _get(channel, end=EndOfChannel):
    taken = channel._take(False)
    while taken is None:
        woken = channel._wait()
        if woken is None:
            raise end
        try:
            await woken
        except BaseException:
            channel._leave(woken)
            raise
        taken = channel._take(True)
    return taken[0]


def _next(channel):
    return _get(channel, StopAsyncIteration)


async def _send(channel, value):
    sent = channel._put(value)
    if sent is not None:
        try:
            await sent
        except BaseException:
            channel._take_back(sent)
            raise


def _activate(venv, paths):
    if venv is not None:
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        packages = os.path.join(venv, "lib", version, "site-packages")
        if not os.path.isdir(packages):
            raise FileNotFoundError(f"no virtual environment of {version}: there is no folder {packages}")
        before = len(sys.path)
        site.addsitedir(packages)
        sys.path[:] = sys.path[before:] + sys.path[:before]
        sys.prefix = sys.exec_prefix = os.path.abspath(venv)
        interpreter = os.path.join(sys.prefix, "bin", "python")
        if os.path.exists(interpreter):
            sys.executable = interpreter  # what Python code starts finds the same packages
    for path in paths:
        sys.path.insert(0, os.path.abspath(path))
    for stream in (sys.stdout, sys.stderr):
        # What a process has in its buffer that is killed is lost.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(line_buffering=True)


def _cancel_all(loop, ended):
    """Cancels what nobody of ours waits for, and calls `ended` when it is over."""
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        waiting = loop.create_task(asyncio.wait(left), name="teamster")
        waiting.add_done_callback(lambda _waiting: ended())
    else:
        ended()


def _names_of_left(loop):
    return [task.get_name() for task in asyncio.all_tasks(loop) if task.get_name() != "teamster"]


def _shut_down(loop, within, is_last):
    """Ends what is left. What has swallowed its cancel until now gets no more than this time.

    `is_last`: the process ends with it, without a word to Python.
    """
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        _wait(loop, left, within)
    _wait(loop, [loop.create_task(loop.shutdown_asyncgens())], within)
    loop.close()
    if is_last:
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            pass  # there is none, it is closed, or nobody reads it


def _wait(loop, tasks, within):
    try:
        loop.run_until_complete(asyncio.wait(tasks, timeout=within.total_seconds()))
    except (SystemExit, KeyboardInterrupt):
        pass  # one of them has raised what asyncio lets through
