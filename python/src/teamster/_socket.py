"""How do bytes move? Into a line's buffer, and out as fast as the socket takes them.

asyncio has transports for that, whose layers are a seventh of what a call costs here. This one does what a line asks of one.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Protocol


class Owner(Protocol):
    """Who reads and writes: a line."""

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go."""

    def buffer_updated(self, nbytes: int) -> None:
        """So many are there."""

    def connection_lost(self, exc: Exception | None) -> None:
        """The end: by whoever has closed it (None), or by an error."""

    def pause_writing(self) -> None:
        """More is unsent than the upper limit says."""

    def resume_writing(self) -> None:
        """That is no longer so."""


class Socket:
    """A connected stream socket that does not block. Belongs to the loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, owner: Owner) -> None:
        self._loop = loop
        self.sock = sock
        self._descriptor = sock.fileno()
        self._owner = owner
        self._unsent = bytearray()
        self._high = self._low = 0
        self._is_paused = False
        self._is_closing = False

    def start(self) -> None:
        """Reads from now on."""
        if not self._is_closing:
            self._loop.add_reader(self._descriptor, self._read)

    def _read(self) -> None:
        owner = self._owner
        try:
            count = self.sock.recv_into(owner.get_buffer(-1))
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._fail(error)
            return
        if not count:
            self.close()  # what is unsent may still leave: they may have closed their half alone
            return
        try:
            owner.buffer_updated(count)
        except Exception as error:  # a mistake of ours: a line that was read by half is of no use
            self._loop.call_exception_handler({"message": "reading a line has failed", "exception": error})
            self._fail(error)

    def write(self, data: bytes) -> None:
        """Sends it, or as much as fits, and the rest when it does. Once closed: nothing."""
        if self._is_closing:
            return
        sent = 0
        if not self._unsent:
            try:
                sent = self.sock.send(data)
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as error:
                self._fail(error)
                return
            if sent == len(data):
                return
            self._loop.add_writer(self._descriptor, self._write_on)
        self._unsent += memoryview(data)[sent:]
        self._look_at_limits()

    def _write_on(self) -> None:
        try:
            sent = self.sock.send(self._unsent)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._fail(error)
            return
        del self._unsent[:sent]
        if not self._unsent:
            self._loop.remove_writer(self._descriptor)
            if self._is_closing:
                self._end(None)
                return
        if self._is_paused and len(self._unsent) <= self._low:
            self._is_paused = False
            self._owner.resume_writing()

    def set_write_buffer_limits(self, high: int) -> None:
        """Its owner pauses while more is unsent, until a quarter of it is left."""
        self._high, self._low = high, high // 4
        self._look_at_limits()

    def _look_at_limits(self) -> None:
        if not self._is_paused and len(self._unsent) > self._high:
            self._is_paused = True
            self._owner.pause_writing()

    def get_write_buffer_size(self) -> int:
        """Bytes that are unsent. From any thread."""
        return len(self._unsent)

    def is_closing(self) -> bool:
        """Whether nothing more is sent than what was written before."""
        return self._is_closing

    def close(self) -> None:
        """Reads no more, and ends when all has left."""
        if self._is_closing:
            return
        self._is_closing = True
        self._loop.remove_reader(self._descriptor)
        if not self._unsent:
            self._loop.call_soon(self._end, None)

    def _fail(self, error: Exception) -> None:
        """What is unsent never leaves."""
        if not self._is_closing:
            self._is_closing = True
            self._loop.remove_reader(self._descriptor)
        elif not self._unsent:
            return  # its end has been called for
        if self._unsent:
            self._unsent.clear()
            self._loop.remove_writer(self._descriptor)
        self._loop.call_soon(self._end, error)

    def _end(self, error: Exception | None) -> None:
        self._owner.connection_lost(error)
        self.sock.close()


__all__ = ["Socket"]
