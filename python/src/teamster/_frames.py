"""What travels? Frames: a length, a header in one msgpack array, and a payload."""

from __future__ import annotations

import struct
from typing import Any

from . import _codec

PROTOCOL = [1, 0]
MAX_HELLO_BYTES = 65_536
MAX_CONTROL_BYTES = 65_536
DEFAULT_MAX_FRAME_BYTES = (1 << 30) + (1 << 16)

HELLO, WELCOME, BYE, PING, PONG = 1, 2, 3, 4, 5
START, START_ACK, STARTED, OPEN, YIELD, STOP, RETURN, ERROR = 16, 17, 18, 19, 20, 21, 22, 23
CANCEL, CANCEL_ACK, CREDIT, PART = 24, 25, 26, 27
TASKS_GONE, SIGNALLED, LOG, OBITUARY_ASKED, OBITUARY, STOOD, LOAD = 34, 35, 37, 42, 43, 45, 47
NAMES = dict(
    zip(
        (*range(1, 6), *range(16, 28), *range(32, 50)),
        "Hello Welcome Bye Ping Pong Start StartAck Started Open Yield Stop Return Error Cancel CancelAck Credit Part"
        " SpawnRecord Ready TasksGone Signalled EndAsked Log Dump End Ended Spawning ObituaryAsked Obituary Hold Stood Stuck"
        " Load Beat Gone".split(),
        strict=True,
    )
)
"""All that a peer may send on one of its lines, by number."""

NAMED = 1
LINE_DATA, LINE_CONTROL = 0, 1
STOP_FINISHED, STOP_LEFT, STOP_BODY_OVER = 0, 1, 2
ACK_ASKED, ACK_ENDED = 0, 1

_LENGTH = struct.Struct("<I")


_FIELDS: dict[int, tuple[int, tuple[int, ...]]] = {
    PING: (1, ()),
    PONG: (1, ()),
    START: (3, (4, 6)),
    START_ACK: (1, ()),
    STARTED: (2, (3,)),
    OPEN: (1, ()),
    YIELD: (2, (3,)),
    STOP: (2, ()),
    RETURN: (2, (3,)),
    ERROR: (1, (2,)),
    CANCEL: (2, ()),
    CANCEL_ACK: (2, ()),
    CREDIT: (2, ()),
    PART: (2, ()),
}
"""How many fields behind the kind are `uint`s, and where those stand that may be left out."""


class Violation(Exception):
    """The peer broke the protocol."""


def not_open(kind: int, dialog: int) -> Violation:
    """For a dialog that was never there, or one of ours that has ended."""
    return Violation(f"{NAMES[kind]} for the dialog {dialog}, which is not open here")


def out_of_order(kind: int, dialog: int) -> Violation:
    """For one that is there."""
    return Violation(f"{NAMES[kind]} for the dialog {dialog}, where it has no place now")


def too_long(size: int, limit: int) -> Violation:
    """A payload that comes in pieces."""
    return Violation(f"a payload of {size} bytes is over the limit of {limit} bytes")


def check(header: list[Any]) -> None:
    """Looks at the numbers of a data line's frame. What is no number its reader looks at.

    Raises:
        Violation: one is missing, or is none.
    """
    count, optional = _FIELDS.get(header[0], _NO_NUMBERS) if header else (1, ())
    if len(header) <= count:
        raise Violation(f"a field is missing: {header!r:.200}")
    for field in header[1 : count + 1]:
        if type(field) is not int or not 0 <= field < 1 << 64:
            raise Violation(f"a field has the wrong type: {header!r:.200}")
    for at in optional:
        field = header[at] if at < len(header) else None
        if field is not None and (type(field) is not int or not 0 <= field < 1 << 64):
            raise Violation(f"a field has the wrong type: {header!r:.200}")


_NO_NUMBERS: tuple[int, tuple[int, ...]] = (0, ())


def left_of(header: list[Any], at: int) -> int:
    """Bytes that follow in Parts, by the optional field of a header that was checked."""
    return (header[at] or 0) if at < len(header) else 0


def frame(header: list[Any], payload: bytes | memoryview = b"") -> bytes:
    """The bytes of a frame. On any thread."""
    return framed(_codec.packed(header), payload)


def framed(head: bytes, payload: bytes | memoryview = b"") -> bytes:
    """The same of a header that is bytes already."""
    return b"".join((_LENGTH.pack(len(head) + len(payload)), head, payload))


def integer(value: int) -> bytes:
    """An unsigned integer, in its shortest form."""
    if value < 0x80:
        return bytes((value,))
    if value < 0x100:
        return struct.pack(">BB", 0xCC, value)
    if value < 0x10000:
        return struct.pack(">BH", 0xCD, value)
    if value < 0x1_0000_0000:
        return struct.pack(">BI", 0xCE, value)
    return struct.pack(">BQ", 0xCF, value)


_RETURN_16 = struct.Struct(">B3x3BHB")
_RETURN_32 = struct.Struct(">B3x3BIB")


def returned(dialog: int, payload: bytes) -> bytes:
    """A whole Return. Most are short, and of dialogs with an id of 16 or 32 bits."""
    if len(payload) < 0x80:
        if 0x100 <= dialog < 0x10000:
            return _RETURN_16.pack(6 + len(payload), 0x93, RETURN, 0xCD, dialog, NAMED) + payload
        if 0x10000 <= dialog < 0x1_0000_0000:
            return _RETURN_32.pack(8 + len(payload), 0x93, RETURN, 0xCE, dialog, NAMED) + payload
    return framed(head_of(RETURN, dialog, True, 0), payload)


def head_of(kind: int, dialog: int, named: bool, left: int) -> bytes:
    """The header of Started, Yield, Return (with an encoding) or of Error and Part (without)."""
    parts = [b"", bytes((kind,)), integer(dialog)]
    if named:
        parts.append(b"\x01")
    if left or kind == PART:
        parts.append(integer(left))
    parts[0] = bytes((0x90 + len(parts) - 1,))
    return b"".join(parts)


def split(body: memoryview) -> tuple[list[Any], memoryview]:
    """The header and the payload of a frame, without its length.

    Raises:
        Violation: it has no header that we can read.
    """
    # A header is short; what is long is the payload, which need not be copied to find that out.
    for peeked in (512, len(body)):
        values = _codec.reader()
        values.feed(body[:peeked])
        try:
            header = values.unpack()
        except _codec.OutOfData:
            continue
        except Exception as error:
            raise Violation(f"a header can't be read: {error}") from None
        if not isinstance(header, list) or not header or not isinstance(header[0], int):
            raise Violation("a header is no array that begins with a kind")
        if header[0] not in NAMES:
            raise Violation(f"{header[0]} is no kind of frame")
        return header, body[values.tell() :]
    raise Violation("a frame ends inside its header")


class Frames:
    """Cuts a stream of bytes into frames, for lines that carry little."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[list[Any], bytes]]:
        """All that is whole by now.

        Raises:
            Violation: a length is 0 or over the limit, or a header is none.
        """
        self.buffer += data
        found = []
        while len(self.buffer) >= 4:
            (length,) = _LENGTH.unpack_from(self.buffer)
            if not 0 < length <= self.limit:
                raise Violation(f"a frame of {length} bytes, where {self.limit} are the limit")
            if len(self.buffer) < 4 + length:
                break
            body = bytes(self.buffer[4 : 4 + length])
            del self.buffer[: 4 + length]
            header, payload = split(memoryview(body))
            found.append((header, bytes(payload)))
        return found
