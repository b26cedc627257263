"""What happens at once, whatever the event loop does? The control line to the parent, and signals, on a thread of its own."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any

from . import _codec, _frames
from ._ident import Canceller, CancelRequest

if TYPE_CHECKING:
    from ._actor import Actor

MAX_WAIT_MS = (1 << 31) - 1
"""The longest that `poll` can wait: for more it waits again."""
VERDICT_WITHIN = 0.2
"""Seconds that a signal waits for the parent's word, which may have sent it."""


class Control(threading.Thread):
    """The control thread. It never waits for the loop's thread."""

    def __init__(self, actor: Actor, line: socket.socket) -> None:
        super().__init__(name="teamster-control", daemon=True)
        self._actor = actor
        self._line = line
        self._send_lock = threading.Lock()
        self._signals, self._woken = socket.socketpair()
        self._signals.setblocking(False)
        self._woken.setblocking(False)
        self._is_up = True
        """Whether the parent can be heard."""
        self._is_ending = False
        self._own_signal: tuple[int, float] | None = None
        """A signal from outside, and until when its verdict is awaited."""
        self._kill_at: float | None = None
        """When this process ends itself, since nobody else does."""

    def take_signals(self) -> None:
        """SIGINT and SIGTERM come here from now on, and interrupt no code. On the main thread alone."""
        signal.set_wakeup_fd(self._woken.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _noted)

    def send(self, frame: bytes) -> None:
        """Sends up. From any thread. A parent that is gone needs no word."""
        with self._send_lock, contextlib.suppress(OSError):
            self._line.sendall(frame)

    def end(self) -> None:
        """The last word: all of this actor is gone, and its process exits next."""
        self._is_ending = True
        self.send(_frames.frame([_frames.TASKS_GONE]))

    def run(self) -> None:
        frames = _frames.Frames(_frames.MAX_CONTROL_BYTES)
        while True:
            try:
                self._turn(frames)
            except Exception:  # without this thread nobody hears a cancel, nor ends what is stuck
                if self._is_up:
                    self._on_parent_lost()
                    with contextlib.suppress(OSError, ValueError):
                        traceback.print_exc()

    def _turn(self, frames: _frames.Frames) -> None:
        """Waits for one of a few things, and does it."""
        self._on_time()
        poll = select.poll()
        poll.register(self._signals, select.POLLIN)
        if self._is_up:
            poll.register(self._line, select.POLLIN)
        ready = dict(poll.poll(self._wait_ms()))
        if self._signals.fileno() in ready:
            with contextlib.suppress(BlockingIOError):
                for number in self._signals.recv(64):
                    self._on_signal(number)
        if self._is_up and self._line.fileno() in ready and not self._receive(frames):
            self._on_parent_lost()

    def _receive(self, frames: _frames.Frames) -> bool:
        try:
            data = self._line.recv(65_536)
            found = frames.feed(data)
        except (OSError, _frames.Violation):
            return False  # a parent that can't be understood is none
        for header, _payload in found:
            self._on_frame(header)
        return bool(data)

    def _wait_ms(self) -> int | None:
        times = [at for at in (self._own_signal and self._own_signal[1], self._kill_at) if at is not None]
        if not times:
            return None
        return min(max(int((min(times) - time.monotonic()) * 1000) + 1, 0), MAX_WAIT_MS)

    def _on_frame(self, header: list[Any]) -> None:
        match header[0]:
            case _frames.CANCEL:
                self._on_cancel(header[1], Canceller.read(header[3]))
            case _frames.LOAD if len(header) == 2 or header[2] is None:
                self.send(_frames.frame([_frames.LOAD, header[1], _codec.packed(self._actor.load())]))
            case _frames.OBITUARY:
                receipt = header[3] if len(header) > 3 else None
                self._actor.soon(self._actor.on_obituary, bytes(header[2][1]), receipt)
            case _frames.STOOD:
                self._actor.stood += header[1] / 1e9

    def _on_cancel(self, dialog: int, canceller: Canceller) -> None:
        actor = self._actor
        if dialog == 0:
            self.send(_frames.frame([_frames.CANCEL_ACK, 0, _frames.ACK_ASKED]))
            self._own_signal = None  # it was the parent, or it ends too
            actor.cancel(canceller)
            return
        line = actor.parent_line
        state = _frames.ACK_ENDED if line is None else line.cancel_now(dialog, canceller)
        self.send(_frames.frame([_frames.CANCEL_ACK, dialog, state]))

    def _on_signal(self, number: int) -> None:
        if number not in (signal.SIGINT, signal.SIGTERM):
            return  # one that the program has asked for itself
        if self._actor.canceller is None and self._own_signal is None and self._kill_at is None:
            self.send(_frames.frame([_frames.SIGNALLED, number]))
            self._own_signal = (number, time.monotonic() + VERDICT_WITHIN)

    def _on_parent_lost(self) -> None:
        if not self._is_up:
            return
        self._is_up = False
        with contextlib.suppress(OSError):
            self._line.shutdown(socket.SHUT_RDWR)
        # A parent that is gone ends nobody any more, also not who only has to leave.
        self._kill_by_grace()
        if not self._is_ending:
            self._actor.cancel(Canceller(self._actor.spec.parent, CancelRequest.PARENT_LOST))

    def _kill_by_grace(self) -> None:
        if self._kill_at is None:
            self._kill_at = time.monotonic() + self._actor.spec.grace

    def _on_time(self) -> None:
        now = time.monotonic()
        if self._kill_at is not None and now >= self._kill_at:
            os.killpg(0, signal.SIGKILL)  # and its helpers
        if self._own_signal is not None and now >= self._own_signal[1]:
            number = self._own_signal[0]
            self._own_signal = None
            self.send(_frames.frame([_frames.SIGNALLED, number]))
            self._kill_by_grace()  # its parent has not asked for its end, and enforces none
            self._actor.died_by = number
            self._actor.cancel(Canceller(self._actor.aid, CancelRequest.SIGNAL, number))


def _noted(_number: int, _frame: object) -> None:
    """The wakeup descriptor has told it already."""
