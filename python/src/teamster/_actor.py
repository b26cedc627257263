"""What is this process doing? From the boot message to the last frame."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import errno
import inspect
import os
import resource
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

from . import _boot_watch, _control, _frames, _logs, _registry, _spec, errors
from ._ident import Aid, Canceller
from ._line import Line
from ._peers import death_of
from ._served import CURRENT, Served
from ._socket import Socket
from ._threads import Threads

BOOT_VARIABLE = "TEAMSTER_BOOT"
LINEAGE_VARIABLE = "TEAMSTER_LINEAGE"
BOOT_FAILED = 70
"""The exit status of a child that could not boot; its stderr says why."""
HANDSHAKE_WITHIN = 5.0
ACCEPT_AGAIN = 0.1
"""Seconds until who knocks is let in after all, where descriptors had run out."""
_FOR_A_MOMENT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED)
THREADS = 32
"""Plain functions that run at a time; more wait for their turn."""

Main = Callable[[], Coroutine[Any, Any, Any]]


class Actor:
    """This process, as one of a tree's actors."""

    def __init__(self, spec: _spec.Spec, loop: asyncio.AbstractEventLoop, control_line: socket.socket) -> None:
        self.spec = spec
        self.aid = Aid(spec.aid.name, spec.aid.uuid, os.getpid(), spec.aid.host)
        self.loop = loop
        self.canceller: Canceller | None = None
        self.died_by: int | None = None
        self.stood = 0.0
        """Seconds in which the terminal had stopped the whole tree."""
        self.served_count = 0
        self.parent_line: Line | None = None
        self.lines: list[Line] = []
        self.running: set[Served] = set()
        """What runs here, also where its line is gone."""
        self.peers: dict[bytes, asyncio.Task[Line]] = {}
        self.ending: asyncio.Future[None] = loop.create_future()
        self.control = _control.Control(self, control_line)
        self.main: asyncio.Task[Any] | None = None
        self.listener: socket.socket | None = None
        self.handles: dict[int, Served] = {}
        self.obituaries: dict[bytes, list[asyncio.Future[list[Any] | None]]] = {}
        self.bereaved: set[asyncio.Task[None]] = set()
        """Who finds out what the loss of a line means."""
        self._next_handle = 0
        self._cancel_lock = threading.Lock()
        self._threads = Threads(loop, THREADS)

    def soon(self, function: Callable[..., object], *args: Any) -> None:
        """Calls on the loop's thread. From any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: all has ended
            self.loop.call_soon_threadsafe(function, *args)

    def cancel(self, canceller: Canceller) -> None:
        """The whole actor ends. From any thread; asking again is asking once."""
        with self._cancel_lock:
            if self.canceller is not None:
                return
            self.canceller = canceller
        self.soon(self._cancel)

    def _cancel(self) -> None:
        canceller = self.canceller
        assert canceller is not None, "it was set before"
        for served in list(self.running):
            served.cancel(canceller)
        if self.main is not None:
            self.main.cancel()
        if not self.ending.done():
            self.ending.set_result(None)

    def line_ended(self, line: Line) -> None:
        if line in self.lines:
            self.lines.remove(line)
        self.peers.pop(line.peer.uuid, None)
        if line is self.parent_line:
            from ._ident import CancelRequest

            self.cancel(Canceller(self.spec.parent, CancelRequest.PARENT_LOST))

    async def in_thread(self, served: Served, function: Callable[..., Any], args: list[Any]) -> Any:
        """Runs a plain function where it may block. Once it has a thread, only its own return ends it."""
        context = contextvars.copy_context()

        def run() -> Any:
            try:
                return context.run(function, *args)
            except StopIteration as error:  # which no future can hold
                raise RuntimeError("the function raised StopIteration") from error

        if served.canceller is not None:
            raise errors.Cancelled(served.canceller)
        job = self._threads.run(run)
        served.inner.add(job)
        try:
            return await job.result
        finally:
            served.inner.discard(job)

    def load(self) -> dict[str, Any]:
        """What this actor has to do now, for who looks from outside. From any thread."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        cpu = usage.ru_utime + usage.ru_stime
        try:
            with open("/proc/self/statm") as statm:
                rss_bytes = int(statm.read().split()[1]) * resource.getpagesize()
        except OSError:
            rss_bytes = 0
        return {
            "actor": self.spec.aid.uuid,
            "served": self.served_count,
            "in_flight": len(self.running),
            "waits_for": sum(len(line.calls) for line in list(self.lines)),
            "queued_bytes": sum(line.queued_bytes for line in list(self.lines)),
            "rss_bytes": rss_bytes,
            "cpu": errors.duration(cpu),
            "latencies": {"counts": []},
        }

    def on_obituary(self, uuid: bytes, receipt: list[Any] | None) -> None:
        """Another actor's parent tells how that has ended."""
        for told in self.obituaries.pop(uuid, []):
            if not told.done():
                told.set_result(receipt)

    # ---- handles of contexts

    def handle_of(self, served: Served) -> dict[str, Any]:
        """A number under which other actors can ask for the end of this context."""
        number = next((number for number, one in self.handles.items() if one is served), None)
        if number is None:
            number, self._next_handle = self._next_handle, self._next_handle + 1
            self.handles = {known: one for known, one in self.handles.items() if not one.is_over}
            self.handles[number] = served
        endpoint = "" if served.endpoint is None else served.endpoint.path
        addrs = [] if self.listener is None else [{"Uds": self.spec.socket_path}]
        return {"holder": [self.aid.__teamster__(), addrs], "number": number, "endpoint": endpoint}

    async def cancel_context(self, number: int, asked_by: Any) -> None:
        """By a handle, which another actor has. It waits for the task, and no longer than the grace."""
        served = self.handles.get(number)
        if served is None or served.is_over or served.task is None:
            return
        served.cancel(Canceller.read(asked_by))
        _, late = await asyncio.wait({served.task}, timeout=self.spec.grace)
        if late and served.endpoint is not None:
            raise errors.NotStopped(served.endpoint.path, self.aid, self.spec.grace)

    # ---- other actors

    async def line_to(self, aid: Aid, addrs: list[Any]) -> Line:
        """A line to this actor: the parent's, one that is there already, or a new one."""
        if aid == self.spec.parent and self.parent_line is not None:
            return self.parent_line
        task = self.peers.get(aid.uuid)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = self.peers[aid.uuid] = self.loop.create_task(self._dial(aid, addrs))
        return await asyncio.shield(task)

    async def _dial(self, aid: Aid, addrs: list[Any]) -> Line:
        problems = []
        for addr in addrs:
            usable = usable_addr(addr)
            if usable is None:
                continue
            try:
                async with asyncio.timeout(HANDSHAKE_WITHIN):
                    return await self._dial_at(aid, usable)
            except (OSError, TimeoutError, EOFError, errors.TransportError, _frames.Violation) as error:
                problems.append(f"{usable[1]}: {error or type(error).__name__}")
        text = f"{aid} can't be reached: {'; '.join(problems) or 'no address that we can use'}"
        raise await death_of(self, aid) or errors.TransportError(text)

    async def _dial_at(self, aid: Aid, addr: tuple[Any, ...]) -> Line:
        sock = socket.socket(socket.AF_UNIX if addr[0] == "uds" else socket.AF_INET)
        try:
            sock.setblocking(False)
            await self.loop.sock_connect(sock, addr[1] if addr[0] == "uds" else addr[1:])
            hello = [_frames.HELLO, _frames.PROTOCOL, self.aid.header(), _frames.LINE_DATA]
            await self.loop.sock_sendall(sock, _frames.frame([*hello, None, None, [], aid.uuid]))
            reader = _frames.Frames(_frames.MAX_HELLO_BYTES)
            while True:
                data = await self.loop.sock_recv(sock, 4096)
                if not data:
                    raise EOFError("it closed the connection")
                found = _first(reader, data)
                if found is not None:
                    break
            header, rest = found
            peer, limit = welcomed(header)
            line = Line(self, peer, is_parent=False, connects=True, limit=limit)
            self.attach(line, sock, rest)
        except BaseException:
            sock.close()
            raise
        return line

    def attach(self, line: Line, sock: socket.socket, rest: bytes) -> None:
        """Keeps a line moving, whose handshake is over."""
        sock.setblocking(False)
        self.lines.append(line)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport = Socket(self.loop, sock, line)
        line.connection_made(transport)
        line.feed(rest)
        transport.start()

    def listen(self) -> socket.socket | None:
        """This actor's own socket, where others call it."""
        if self.spec.is_worker or "Uds" not in self.spec.transports:
            return None
        listener = socket.socket(socket.AF_UNIX)
        try:
            listener.bind(self.spec.socket_path)
            listener.listen(128)
            listener.setblocking(False)
        except OSError:
            listener.close()
            raise
        return listener

    async def accept(self, listener: socket.socket) -> None:
        """Lets in who knocks, until the actor ends."""
        handshakes: set[asyncio.Task[None]] = set()
        try:
            while True:
                try:
                    sock, _ = await self.loop.sock_accept(listener)
                except OSError as error:
                    if error.errno not in _FOR_A_MOMENT:
                        raise
                    await asyncio.sleep(ACCEPT_AGAIN)
                    continue
                task = self.loop.create_task(self._let_in(sock))
                handshakes.add(task)
                task.add_done_callback(handshakes.discard)
        finally:
            for task in handshakes:
                task.cancel()
            listener.close()

    async def _let_in(self, sock: socket.socket) -> None:
        try:
            async with asyncio.timeout(HANDSHAKE_WITHIN):
                hello, rest = await self._hello(sock)
            line = Line(
                self, Aid.read(hello[2]), is_parent=False, connects=False, limit=self.spec.max_frame_bytes
            )
            header = [_frames.WELCOME, _frames.PROTOCOL, self.aid.header(), self.spec.max_frame_bytes, False]
            await self.loop.sock_sendall(sock, _frames.frame(header))
            self.attach(line, sock, rest)
        except _Refused as refused:
            with contextlib.suppress(OSError):
                sock.send(_frames.frame([_frames.BYE, str(refused)]))
            sock.close()
        except (OSError, EOFError, TimeoutError, IndexError, KeyError, TypeError, ValueError, _frames.Violation):
            sock.close()  # a stranger, or somebody who has changed his mind

    async def _hello(self, sock: socket.socket) -> tuple[list[Any], bytes]:
        sock.setblocking(False)
        _pid, uid, _gid = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid != os.getuid():
            raise _Refused("another user's process")
        reader = _frames.Frames(_frames.MAX_HELLO_BYTES)
        found = None
        while found is None:
            data = await self.loop.sock_recv(sock, 4096)
            if not data:
                raise EOFError
            found = _first(reader, data)
        hello, rest = found
        hello += [None] * (8 - len(hello))
        if hello[0] != _frames.HELLO:
            raise _Refused("a connection begins with Hello")
        if hello[1][0] != _frames.PROTOCOL[0]:
            raise _Refused("another protocol")
        if hello[7] is not None and hello[7] != self.aid.uuid:
            raise _Refused("another actor lives at this address now")
        if hello[3] == _frames.LINE_CONTROL and hello[4] is None:
            raise _Refused("a control line needs a token")
        if hello[3] != _frames.LINE_DATA or hello[4] is not None:
            raise _Refused("an unknown token, or one that was used already")
        return hello, rest


class _Refused(Exception):
    """Whoever knocks is not let in."""


def _first(reader: _frames.Frames, data: bytes) -> tuple[list[Any], bytes] | None:
    """The first frame, and the bytes behind it, which are of the line's own."""
    reader.buffer += data
    if len(reader.buffer) < 4:
        return None
    length = int.from_bytes(reader.buffer[:4], "little")
    if not 0 < length <= reader.limit:
        raise _frames.Violation("the first frame is too long")
    if len(reader.buffer) < 4 + length:
        return None
    header, _payload = _frames.split(memoryview(bytes(reader.buffer[4 : 4 + length])))
    return header, bytes(reader.buffer[4 + length :])


def welcomed(header: list[Any]) -> tuple[Aid, int]:
    """Who has answered, and its limit.

    Raises:
        TransportError: we are not let in.
    """
    try:
        if header[0] == _frames.BYE:
            raise errors.TransportError(str(header[1]))
        if header[0] != _frames.WELCOME or header[1][0] != _frames.PROTOCOL[0]:
            raise errors.TransportError("it did not answer with a Welcome of our protocol")
        return Aid.read(header[2]), min(header[3], _frames.DEFAULT_MAX_FRAME_BYTES)
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise errors.TransportError(f"its answer can't be read: {error}") from None


def usable_addr(addr: Any) -> tuple[Any, ...] | None:
    """What of a payload's address `{"Uds": path}` a socket can use; those with TLS are none."""
    kind, place = next(iter(addr.items()))
    if kind == "Uds":
        return ("uds", place)
    if kind == "InsecureTcp" and "Ip" in place["host"]:
        ip = place["host"]["Ip"]
        if "V4" in ip:
            return ("insecure", ".".join(str(byte) for byte in ip["V4"]), place["port"])
    return None


# ---- boot

_actor: Actor | None = None


def this() -> Actor:
    """The actor that this process is.

    Raises:
        NotAnActor: it is none.
    """
    if _actor is None:
        raise errors.NotAnActor("this process is no actor yet: `teamster.run()` makes it one")
    return _actor


def is_child() -> bool:
    """Whether this process was started as an actor, and `run` has something to do."""
    return _actor is not None or os.environ.get(BOOT_VARIABLE) == "1"


def run(main: Main | None = None) -> None:
    """Becomes the actor that this process was started as, and serves until its parent ends it.

    Call it at the end of the script, when all endpoints are there. `main` is a coroutine function that runs beside the
    calls, such as one that calls the parent; when it returns, the actor serves on, and when it raises, the actor dies
    of it. It is cancelled with the actor.

    Returns when the actor has ended. What follows in the script has what is left of its grace.

    Raises:
        NotAnActor: the script was not started as an actor.
    """
    if not is_child():
        raise errors.NotAnActor(_NO_CHILD)
    loop = asyncio.new_event_loop()
    try:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(serve(main))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        asyncio.set_event_loop(None)
        loop.close()
    actor = this()
    if actor.died_by is not None:
        sys.stdout.flush()
        signal.signal(actor.died_by, signal.SIG_DFL)
        os.kill(os.getpid(), actor.died_by)


_NO_CHILD = (
    "this script was not started as an actor: a Rust program starts it by `nursery.actor(\"name\").python(\"script.py\")`"
)


async def serve(main: Main | None = None) -> None:
    """The same inside an event loop that runs already: `asyncio.run(…)` of a program that has more to do."""
    global _actor
    if _actor is not None:
        raise errors.Misused("this process is an actor already")
    if main is not None and not inspect.iscoroutinefunction(main):
        raise TypeError("main is a coroutine function: `async def main(): …`, and `teamster.run(main)`")
    actor, data_line, listener = _boot(asyncio.get_running_loop())
    _actor = actor
    _registry.add_own("teamster.cancel_context", actor.cancel_context)
    await _live(actor, data_line, listener, main)


def _boot(loop: asyncio.AbstractEventLoop) -> tuple[Actor, socket.socket, socket.socket | None]:
    if os.environ.pop(BOOT_VARIABLE, None) != "1":
        raise errors.NotAnActor(_NO_CHILD)
    os.environ.pop(LINEAGE_VARIABLE, None)  # its helpers are no actors
    what = "reading the boot message"
    try:
        spec = _spec.read(0)
        if spec is None:
            raise SystemExit(0)  # whoever was to send it is gone
        what = "opening /dev/null"
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(null, 0)
        os.close(null)
        _spec.apply(spec)
        _registry.EXPOSED[0] = spec.expose
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(line_buffering=True)  # they are relayed by lines
        what = "connecting the control line to the parent"
        control_line = _connect(spec)
        actor = Actor(spec, loop, control_line)
        control_line.sendall(_hello(actor, _frames.LINE_CONTROL, spec.control_token, []))
        what = "connecting the data line to the parent"
        data_line = _connect(spec)
        what = "binding its own socket"
        listener = actor.listener = actor.listen()
        actor.parent_line = Line(
            actor, spec.parent, is_parent=True, connects=True, limit=_frames.DEFAULT_MAX_FRAME_BYTES
        )
        if threading.current_thread() is threading.main_thread():
            actor.control.take_signals()
        actor.control.start()
        _boot_watch.end()
        what = "speaking to the parent"
        addrs = [] if listener is None else [["uds", os.fsencode(spec.socket_path)]]
        data_line.sendall(_hello(actor, _frames.LINE_DATA, spec.data_token, addrs))
    except (OSError, _spec.BootFailed) as error:
        print(f"teamster: this child can't boot: {what}: {error}", file=sys.stderr)
        raise SystemExit(BOOT_FAILED) from None
    return actor, data_line, listener


def _connect(spec: _spec.Spec) -> socket.socket:
    problems = []
    for addr in spec.parent_addrs:
        usable = usable_addr(addr)
        if usable is None or next(iter(addr)) not in spec.transports:
            continue
        sock = socket.socket(socket.AF_UNIX if usable[0] == "uds" else socket.AF_INET)
        try:
            sock.connect(usable[1] if usable[0] == "uds" else usable[1:])
            return sock
        except OSError as error:
            sock.close()
            problems.append(f"{usable[1]}: {error}")
    raise OSError("; ".join(problems) or "it has no address that a Python program can use: a Unix socket, or insecure TCP")


def _hello(actor: Actor, line: int, token: bytes, addrs: list[Any]) -> bytes:
    fields = [_frames.HELLO, _frames.PROTOCOL, actor.aid.header(), line, token, None, addrs, actor.spec.parent.uuid]
    return _frames.frame(fields)


async def _live(actor: Actor, data_line: socket.socket, listener: socket.socket | None, main: Main | None) -> None:
    line = actor.parent_line
    assert line is not None, "it was made at boot"
    try:
        rest = _welcome(actor, line, data_line)
    except (OSError, EOFError, errors.TransportError, _frames.Violation) as error:
        if actor.canceller is not None:
            actor.control.end()
            return
        print(f"teamster: {actor.aid}: the parent did not let us in: {error}", file=sys.stderr)
        raise SystemExit(BOOT_FAILED) from None
    actor.attach(line, data_line, rest)
    _logs.install(actor)
    accepting = None if listener is None else actor.loop.create_task(actor.accept(listener))
    waits = {actor.ending}
    failure: BaseException | None = None
    if main is not None:
        actor.main = actor.loop.create_task(main())
        if actor.canceller is not None:
            actor.main.cancel()
        await asyncio.wait({actor.main, actor.ending}, return_when=asyncio.FIRST_COMPLETED)
        if actor.main.done() and not actor.main.cancelled():
            failure = actor.main.exception()
    if failure is None:
        await asyncio.wait(waits)
        if actor.main is not None and not actor.main.done():
            await asyncio.wait({actor.main})
            if not actor.main.cancelled():
                failure = actor.main.exception()
    await _wind_down(actor, accepting)
    if failure is not None:
        raise failure


async def _wind_down(actor: Actor, accepting: asyncio.Task[None] | None) -> None:
    """All that this actor has running ends, each at its own pace; then the last frames leave."""
    if actor.canceller is None:  # its own main has failed: nobody has asked, and what runs dies with the process
        return
    while running := [one.task for one in actor.running if one.task is not None and not one.task.done()]:
        await asyncio.wait(running)
    if accepting is not None:
        accepting.cancel()
        await asyncio.wait({accepting})
    for line in list(actor.lines):
        await line.flushed()
    for line in list(actor.lines):
        if line is not actor.parent_line:
            line.close("the actor has ended")
    sys.stdout.flush()
    sys.stderr.flush()
    actor.control.end()


def _welcome(actor: Actor, line: Line, sock: socket.socket) -> bytes:
    """Waits for the parent's answer, a moment; what came behind it is the line's."""
    reader = _frames.Frames(_frames.MAX_HELLO_BYTES)
    late_at = time.monotonic() + HANDSHAKE_WITHIN
    while True:
        sock.settimeout(max(late_at - time.monotonic(), 0.001))
        data = sock.recv(4096)
        if not data:
            raise EOFError("it closed the connection")
        found = _first(reader, data)
        if found is not None:
            header, rest = found
            line.peer, line.limit = welcomed(header)
            return rest


def deadline() -> float | None:
    """Until when this code's caller waits, as a time of `time.monotonic()`."""
    served = CURRENT.get()
    return None if served is None else served.deadline


__all__ = ["Actor", "deadline", "is_child", "run", "serve", "this"]
