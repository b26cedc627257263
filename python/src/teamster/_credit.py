"""How much may still be sent? Credit in bytes, for each direction of a dialog's stream.

An offset counts the payload bytes of all items since the dialog began. The receiver grants an absolute offset.
"""

from __future__ import annotations

FIRST_WINDOW_BYTES = 16 * 1024
WINDOW_BYTES = 1 << 20


class Sending:
    """The sender's side."""

    __slots__ = ("sent", "up_to")

    def __init__(self) -> None:
        self.sent = 0
        self.up_to = FIRST_WINDOW_BYTES

    @property
    def room(self) -> int:
        """Bytes that may be sent now."""
        return self.up_to - self.sent

    def take(self, count: int) -> bool:
        """Books `count` bytes as sent, if there is room for all of them."""
        if count > self.up_to - self.sent:
            return False
        self.sent += count
        return True

    def take_up_to(self, wanted: int) -> int:
        """Books at most `wanted` bytes: how many."""
        taken = min(self.room, wanted)
        self.sent += taken
        return taken

    def on_credit(self, up_to: int) -> None:
        """The receiver takes more. A lower offset than before is an old one."""
        self.up_to = max(self.up_to, up_to)


class Receiving:
    """The receiver's side."""

    __slots__ = ("consumed", "granted", "received", "window")

    def __init__(self) -> None:
        self.received = 0
        self.consumed = 0
        self.granted = FIRST_WINDOW_BYTES
        self.window = FIRST_WINDOW_BYTES

    def on_bytes(self, count: int) -> bool:
        """Bytes have come. False: more than were granted."""
        self.received += count
        return self.received <= self.granted

    def consume(self, count: int) -> None:
        """So many bytes wait no more."""
        self.consumed += count

    def open_wide(self) -> None:
        """Opens the window as far as it goes: for one long item."""
        self.window = WINDOW_BYTES

    def grant(self) -> int | None:
        """The offset to grant now, if it is worth a frame: half a window was read. Reading makes the window grow."""
        if self.consumed + self.window - self.granted < self.window // 2:
            return None
        self.window = min(self.window * 2, WINDOW_BYTES)
        self.granted = self.consumed + self.window
        return self.granted
