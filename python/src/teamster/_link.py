"""What may happen next in one context? Its first word, a stream each way, one end: no loop in it, and no socket."""

from __future__ import annotations

import enum
from collections import deque
from typing import Any

from . import _codec, _frames
from ._credit import WINDOW_BYTES, Receiving, Sending
from ._frames import Violation, out_of_order
from .errors import Misused

KEPT_BYTES = WINDOW_BYTES // 4
"""So much waits for a reader where the oldest are dropped."""


class Room(enum.Enum):
    """What to do with an item that the user wants to send."""

    NOW = "send it: its bytes are booked"
    PIECES = "send it piece by piece, as credit comes"
    NO_READER = "wait: the peer reads nothing yet, and what it holds unread is full"
    GONE = "nobody reads any more, and the credit is used up"
    IN_TRANSIT = "drop it: nobody reads any more, as if it were in transit"


class Link:
    """One side of one context. The user's calls and the peer's frames come in, in any order."""

    __slots__ = (
        "drops_oldest",
        "dropped",
        "end",
        "forgets",
        "has_started",
        "is_callee",
        "is_cancelled",
        "items",
        "kept_bytes",
        "lengths",
        "let_in",
        "ours_open",
        "ours_stop",
        "partial",
        "partial_left",
        "receiving",
        "segments",
        "sending",
        "theirs_open",
        "theirs_stop",
    )

    def __init__(self, *, is_callee: bool) -> None:
        self.is_callee = is_callee
        self.has_started = False
        self.ours_open = False
        self.theirs_open = False
        self.ours_stop: int | None = None
        self.theirs_stop: int | None = None
        self.sending = Sending()
        self.receiving = Receiving()
        self.segments: deque[tuple[bytes, int]] = deque()
        """Items that came together, and how many of their bytes were not let in as they arrived."""
        self.items: deque[Any] = deque()
        """Those of the segment that is being read."""
        self.lengths: deque[int] = deque()
        """Of each of those its bytes, where the oldest are dropped; else none."""
        self.kept_bytes = 0
        self.partial: bytearray | None = None
        self.partial_left = 0
        """Bytes of that item which have not come."""
        self.let_in = 0
        self.forgets = False
        self.drops_oldest = False
        """What is not read in time is dropped, so that its sender need not wait."""
        self.dropped = 0
        self.is_cancelled = False
        self.end = False

    # ---- our user speaks

    def start(self) -> None:
        """The callee says its first word."""
        if self.has_started:
            raise Misused("`started` was called twice: a context says its first word once")
        self.has_started = True

    def open_stream(self) -> None:
        """Opens this side's stream: an Open is to be sent, unless the dialog has ended."""
        if self.is_callee and not self.has_started:
            raise Misused("the stream was opened before `started`: call `ctx.started(…)` first")
        if self.ours_open:
            raise Misused("a context has one stream, and it was opened already")
        if self.is_cancelled:
            raise Misused("the context was cancelled: it can't open a stream any more")
        if self.end and not self.theirs_open:
            raise Misused("the context has ended: it can't open a stream any more")
        self.ours_open = True

    def room(self, count: int) -> Room:
        """Whether items of so many bytes may be sent."""
        if self.ours_stop is not None:
            raise Misused("this side has finished its stream: it can't send any more")
        has_room = self.sending.take(count)
        if not self.is_heard:
            return Room.IN_TRANSIT if has_room else Room.GONE
        if has_room:
            return Room.NOW
        return Room.PIECES if self.theirs_open else Room.NO_READER

    @property
    def is_heard(self) -> bool:
        """Whether there is somebody who may read what we send."""
        return not self.end and not self.is_cancelled and self.theirs_stop not in _DEAF

    def stop(self, how: int) -> int | None:
        """Sends no more, or does not even read any more: the Stop to send, if it says something new."""
        if self.ours_stop is not None and self.ours_stop >= how:
            return None
        if how != _frames.STOP_FINISHED:
            self.throw_away()
        concerns = self.ours_open or how == _frames.STOP_BODY_OVER
        self.ours_stop = how
        return how if concerns and not self.end else None

    @property
    def is_drained(self) -> bool:
        """Whether nothing will ever be there to read."""
        return self.theirs_stop is not None or self.end or self.is_cancelled or self.forgets

    def read(self) -> bool:
        """Whether there is an item, the first of `items` then. Ask for `credit` after it."""
        while not self.items:
            if not self.segments:
                return False
            segment, unread = self.segments.popleft()
            self.receiving.consume(unread)
            self.items.extend(_codec.unpack_all(segment))
        return True

    def take(self) -> Any:
        """That item."""
        if self.lengths:
            self.kept_bytes -= self.lengths.popleft()
        return self.items.popleft()

    def credit(self) -> int | None:
        """The offset to grant to the peer, if one is due."""
        if self.end or self.theirs_stop is not None:
            return None
        holds_up = not self.forgets and not self.drops_oldest
        if holds_up and not self.ours_open:
            return None
        # One long item whose reader waits for it is let in as it arrives.
        if self.partial is not None and (not holds_up or not self.segments) and len(self.partial) > self.let_in:
            self.receiving.open_wide()
            self.receiving.consume(len(self.partial) - self.let_in)
            self.let_in = len(self.partial)
        return self.receiving.grant()

    def cancel(self) -> bool:
        """This side cancels the context: whether it is the first to."""
        if self.end or self.is_cancelled:
            return False
        self.is_cancelled = True
        self.throw_away()
        return True

    def throw_away(self) -> None:
        """This side reads no more: what comes is read and forgotten."""
        self.forgets = True
        self.items.clear()
        self.lengths.clear()
        while self.segments:
            self.receiving.consume(self.segments.popleft()[1])

    # ---- the peer speaks

    def on_started(self, dialog: int) -> None:
        if self.is_callee or self.has_started:
            raise out_of_order(_frames.STARTED, dialog)
        self.has_started = True

    def on_open(self, dialog: int) -> None:
        if self.theirs_open:
            raise out_of_order(_frames.OPEN, dialog)
        self.theirs_open = True

    def on_yield(self, dialog: int, data: memoryview, left: int) -> None:
        """Whole items, or with `left` the beginning of one."""
        if not self.theirs_open or self.theirs_stop is not None or self.partial is not None:
            raise out_of_order(_frames.YIELD, dialog)
        self._book(dialog, len(data))
        if left:
            self.partial, self.partial_left = bytearray(data), left
        else:
            self._push(bytes(data))

    def on_part(self, dialog: int, data: memoryview, left: int) -> None:
        """More of an item."""
        if self.partial is None or self.partial_left - len(data) != left:
            raise out_of_order(_frames.PART, dialog)
        self._book(dialog, len(data))
        self.partial_left = left
        self.partial += data
        if not left:
            whole, self.partial = self.partial, None
            self._push(bytes(whole))

    def _book(self, dialog: int, count: int) -> None:
        if not self.receiving.on_bytes(count):
            raise Violation(f"more items in the dialog {dialog} than it was granted")

    def _push(self, items: bytes) -> None:
        unread = max(len(items) - self.let_in, 0)
        self.let_in = 0
        if self.forgets:
            self.receiving.consume(unread)
        elif self.drops_oldest:
            self.receiving.consume(unread)  # what is dropped for it makes the room
            self._push_dropping(items)
        else:
            self.segments.append((items, unread))

    def _push_dropping(self, items: bytes) -> None:
        """Keeps so much, and the newest item however long it is."""
        for item, length in _codec.unpack_sized(items):
            self.items.append(item)
            self.lengths.append(length)
            self.kept_bytes += length
        while self.kept_bytes > KEPT_BYTES and len(self.items) > 1:
            self.items.popleft()
            self.kept_bytes -= self.lengths.popleft()
            self.dropped += 1

    def allow_overruns(self) -> None:
        """What this side does not read in time is dropped from now on, the oldest first."""
        self.drops_oldest = True
        self.receiving.open_wide()
        while self.segments:
            segment, unread = self.segments.popleft()
            self.receiving.consume(unread)
            self._push_dropping(segment)

    def on_stop(self, dialog: int, how: int) -> None:
        if how > _frames.STOP_BODY_OVER:
            raise Violation(f"a malformed frame: {how} is no way to stop")
        is_new = self.theirs_stop is None or self.theirs_stop < how
        is_theirs = how != _frames.STOP_BODY_OVER or self.is_callee
        if not is_new or not is_theirs or (not self.theirs_open and how != _frames.STOP_BODY_OVER):
            raise out_of_order(_frames.STOP, dialog)
        self.theirs_stop = how

    def on_end(self) -> None:
        self.end = True
        self.partial = None


_DEAF = (_frames.STOP_LEFT, _frames.STOP_BODY_OVER)
