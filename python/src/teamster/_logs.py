"""Where does what a program logs go? With the `logging` of Python up the tree, as every actor's lines do."""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING, Any

from . import _codec, _frames

if TYPE_CHECKING:
    from ._actor import Actor

MAX_WAITING_BYTES = 1 << 20
"""What waits for a slow parent; a line more is dropped, and counted."""
MAX_TEXT_CHARS = 64 * 1024

_LEVELS = {"off": 100, "error": logging.ERROR, "warn": logging.WARNING, "info": logging.INFO, "debug": logging.DEBUG, "trace": 5}


class Directives:
    """Which lines travel: `info`, or `warn,my_module=debug`."""

    def __init__(self, text: str | None) -> None:
        self.default = logging.INFO
        self.of: dict[str, int] = {}
        for word in (text or "info").split(","):
            name, _, level = word.strip().rpartition("=")
            number = _LEVELS.get(level.lower())
            if number is None:
                continue  # one for Rust's filter, such as a span's
            if name:
                self.of[name.replace("::", ".")] = number
            else:
                self.default = number

    @property
    def least(self) -> int:
        """The lowest level that travels at all."""
        return min([self.default, *self.of.values()])

    def lets_through(self, name: str, level: int) -> bool:
        """By the directive for the longest part of its name."""
        while name:
            if name in self.of:
                return level >= self.of[name]
            name = name.rpartition(".")[0]
        return level >= self.default


class Upwards(logging.Handler):
    """Sends each line to the parent. From any thread."""

    def __init__(self, actor: Actor, directives: Directives) -> None:
        super().__init__()
        self._actor = actor
        self._directives = directives
        self._dropped = 0
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if not self._directives.lets_through(record.name, record.levelno):
            return
        if self._actor.loop.is_closed():  # the actor has ended: as without us, to stderr
            if logging.lastResort is not None and record.levelno >= logging.lastResort.level:
                logging.lastResort.handle(record)
            return
        try:
            frame = self._frame(record)
        except Exception:  # a message whose arguments do not fit it
            self.handleError(record)
            return
        if threading.get_ident() == self._thread:
            self._send(frame)
        else:
            self._actor.soon(self._send, frame)

    def _frame(self, record: logging.LogRecord) -> bytes:
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + logging.Formatter().formatException(record.exc_info)
        fields: list[Any] = [["dropped", str(self._dropped)]] if self._dropped else []
        line = [
            None,
            _level(record.levelno),
            int(record.created * 1e6),
            record.name.replace(".", "::"),
            message[:MAX_TEXT_CHARS].encode(errors="backslashreplace").decode(),
            fields,
            [],
            record.pathname,
            record.lineno,
        ]
        return _frames.framed(_codec.packed([_frames.LOG]), _codec.packed(line))

    def _send(self, frame: bytes) -> None:
        line = self._actor.parent_line
        if line is None or line.is_closed:
            return
        if line.queued_bytes > MAX_WAITING_BYTES:
            self._dropped += 1
            return
        self._dropped = 0
        line.write(frame)


def _level(number: int) -> int:
    if number >= logging.ERROR:
        return 1
    if number >= logging.WARNING:
        return 2
    if number >= logging.INFO:
        return 3
    return 4 if number >= logging.DEBUG else 5


def install(actor: Actor) -> None:
    """Unless the program has set up its own logging."""
    root = logging.getLogger()
    if root.handlers:
        return
    directives = Directives(os.environ.get("TEAMSTER_LOG") or actor.spec.log)
    root.addHandler(Upwards(actor, directives))
    root.setLevel(directives.least)
