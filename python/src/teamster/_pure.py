"""How is a value bytes, where the package `msgpack` is not installed? The part of its interface that we use, in Python."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

MAX_DEPTH = 256
"""How deep bytes may nest: more than the 200 levels of docs/wire.md, which are a sender's limit."""


class OutOfData(Exception):
    """The bytes end before the value does."""


class ExtType:
    """A value of a type that msgpack does not know."""

    __slots__ = ("code", "data")

    def __init__(self, code: int, data: bytes) -> None:
        self.code = code
        self.data = data

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ExtType) and (self.code, self.data) == (other.code, other.data)

    def __hash__(self) -> int:
        return hash((self.code, self.data))


class Packer:
    """Writes values."""

    def __init__(self, *, default: Callable[[Any], Any] | None = None) -> None:
        self._default = default

    def pack(self, value: Any) -> bytes:
        """The bytes of `value`."""
        out: list[bytes] = []
        self._write(value, out.append, MAX_DEPTH)
        return b"".join(out)

    def _write(self, value: Any, add: Callable[[bytes], None], depth: int) -> None:
        if depth == 0:
            raise ValueError("recursion limit exceeded")
        if value is None:
            add(b"\xc0")
        elif value is True:
            add(b"\xc3")
        elif value is False:
            add(b"\xc2")
        elif isinstance(value, int):
            if -(1 << 63) <= value < 1 << 64:
                add(_integer(value))
            else:
                self._foreign(value, add, depth)
        elif isinstance(value, str):
            text = value.encode()
            add(_head(len(text), 0xA0, 32, 0xD9, 0xDA, 0xDB))
            add(text)
        elif isinstance(value, (bytes, bytearray)):
            add(_head(len(value), None, 0, 0xC4, 0xC5, 0xC6))
            add(bytes(value))
        elif isinstance(value, memoryview):
            add(_head(value.nbytes, None, 0, 0xC4, 0xC5, 0xC6))
            add(value.tobytes())
        elif isinstance(value, float):
            add(struct.pack(">Bd", 0xCB, value))
        elif isinstance(value, (list, tuple)):
            add(_head(len(value), 0x90, 16, None, 0xDC, 0xDD))
            for item in value:
                self._write(item, add, depth - 1)
        elif isinstance(value, dict):
            add(_head(len(value), 0x80, 16, None, 0xDE, 0xDF))
            for key, item in value.items():
                self._write(key, add, depth - 1)
                self._write(item, add, depth - 1)
        elif isinstance(value, ExtType):
            fixed = {1: 0xD4, 2: 0xD5, 4: 0xD6, 8: 0xD7, 16: 0xD8}.get(len(value.data))
            add(bytes([fixed]) if fixed else _head(len(value.data), None, 0, 0xC7, 0xC8, 0xC9))
            add(struct.pack(">b", value.code))
            add(value.data)
        else:
            self._foreign(value, add, depth)

    def _foreign(self, value: Any, add: Callable[[bytes], None], depth: int) -> None:
        if self._default is None:
            raise TypeError(f"can not serialize {type(value).__name__!r} object")
        self._write(self._default(value), add, depth)


def _integer(value: int) -> bytes:
    if value >= 0:
        if value < 0x80:
            return bytes((value,))
        if value < 1 << 8:
            return struct.pack(">BB", 0xCC, value)
        if value < 1 << 16:
            return struct.pack(">BH", 0xCD, value)
        if value < 1 << 32:
            return struct.pack(">BI", 0xCE, value)
        return struct.pack(">BQ", 0xCF, value)
    if value >= -32:
        return struct.pack(">b", value)
    if value >= -(1 << 7):
        return struct.pack(">Bb", 0xD0, value)
    if value >= -(1 << 15):
        return struct.pack(">Bh", 0xD1, value)
    if value >= -(1 << 31):
        return struct.pack(">Bi", 0xD2, value)
    return struct.pack(">Bq", 0xD3, value)


def _head(length: int, fixed: int | None, fits: int, byte: int | None, short: int, long: int) -> bytes:
    if fixed is not None and length < fits:
        return bytes((fixed | length,))
    if byte is not None and length < 1 << 8:
        return bytes((byte, length))
    if length < 1 << 16:
        return struct.pack(">BH", short, length)
    if length < 1 << 32:
        return struct.pack(">BI", long, length)
    raise ValueError("it is longer than msgpack can tell")


class Unpacker:
    """Reads values that stand one behind the other."""

    def __init__(self, *, ext_hook: Callable[[int, bytes], Any] = ExtType) -> None:
        self._buffer = bytearray()
        self._at = 0
        self._dropped = 0
        self._ext_hook = ext_hook

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """These bytes follow."""
        if self._at:
            self._dropped += self._at
            del self._buffer[: self._at]
            self._at = 0
        self._buffer += data

    def tell(self) -> int:
        """How many of all bytes fed were read."""
        return self._dropped + self._at

    def unpack(self) -> Any:
        """The next value. `OutOfData`: it is not whole, and nothing was read."""
        value, self._at = _read(self._buffer, self._at, self._ext_hook, MAX_DEPTH)
        return value


def unpackb(data: bytes | bytearray | memoryview, *, ext_hook: Callable[[int, bytes], Any] = ExtType) -> Any:
    """The one value that these bytes are."""
    value, end = _read(data, 0, ext_hook, MAX_DEPTH)
    if end != len(data):
        raise ValueError("bytes follow the value")
    return value


_NUMBERS = {
    0xCA: struct.Struct(">f"),
    0xCB: struct.Struct(">d"),
    0xCC: struct.Struct(">B"),
    0xCD: struct.Struct(">H"),
    0xCE: struct.Struct(">I"),
    0xCF: struct.Struct(">Q"),
    0xD0: struct.Struct(">b"),
    0xD1: struct.Struct(">h"),
    0xD2: struct.Struct(">i"),
    0xD3: struct.Struct(">q"),
}
_LENGTHS = {0: struct.Struct(">B"), 1: struct.Struct(">H"), 2: struct.Struct(">I")}
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}


def _read(data: Any, at: int, hook: Callable[[int, bytes], Any], depth: int) -> tuple[Any, int]:
    if depth == 0:
        raise ValueError("it nests too deep")
    if at >= len(data):
        raise OutOfData
    mark = data[at]
    at += 1
    if mark < 0x80:
        return mark, at
    if mark >= 0xE0:
        return mark - 0x100, at
    if mark < 0x90:
        return _map(data, at, mark & 0x0F, hook, depth)
    if mark < 0xA0:
        return _array(data, at, mark & 0x0F, hook, depth)
    if mark < 0xC0:
        return _text(data, at, mark & 0x1F)
    if mark in _CONSTANTS:
        return _CONSTANTS[mark], at
    number = _NUMBERS.get(mark)
    if number is not None:
        _must_have(data, at + number.size)
        return number.unpack_from(data, at)[0], at + number.size
    if 0xC4 <= mark <= 0xC6:
        length, at = _length(data, at, mark - 0xC4)
        _must_have(data, at + length)
        return bytes(data[at : at + length]), at + length
    if 0xC7 <= mark <= 0xC9:
        length, at = _length(data, at, mark - 0xC7)
        return _ext(data, at, length, hook)
    if 0xD4 <= mark <= 0xD8:
        return _ext(data, at, 1 << (mark - 0xD4), hook)
    if 0xD9 <= mark <= 0xDB:
        length, at = _length(data, at, mark - 0xD9)
        return _text(data, at, length)
    if mark in (0xDC, 0xDD):
        length, at = _length(data, at, mark - 0xDC + 1)
        return _array(data, at, length, hook, depth)
    if mark in (0xDE, 0xDF):
        length, at = _length(data, at, mark - 0xDE + 1)
        return _map(data, at, length, hook, depth)
    raise ValueError(f"no value begins with {mark:#04x}")


def _must_have(data: Any, end: int) -> None:
    if end > len(data):
        raise OutOfData


def _length(data: Any, at: int, width: int) -> tuple[int, int]:
    reader = _LENGTHS[width]
    _must_have(data, at + reader.size)
    length: int = reader.unpack_from(data, at)[0]
    return length, at + reader.size


def _text(data: Any, at: int, length: int) -> tuple[str, int]:
    _must_have(data, at + length)
    return bytes(data[at : at + length]).decode(), at + length


def _ext(data: Any, at: int, length: int, hook: Callable[[int, bytes], Any]) -> tuple[Any, int]:
    _must_have(data, at + 1 + length)
    code: int = struct.unpack_from(">b", data, at)[0]
    return hook(code, bytes(data[at + 1 : at + 1 + length])), at + 1 + length


def _array(data: Any, at: int, length: int, hook: Callable[[int, bytes], Any], depth: int) -> tuple[list[Any], int]:
    items = []
    for _ in range(length):
        item, at = _read(data, at, hook, depth - 1)
        items.append(item)
    return items, at


def _map(data: Any, at: int, length: int, hook: Callable[[int, bytes], Any], depth: int) -> tuple[dict[Any, Any], int]:
    items = {}
    for _ in range(length):
        key, at = _read(data, at, hook, depth - 1)
        value, at = _read(data, at, hook, depth - 1)
        try:
            items[key] = value
        except TypeError as error:
            raise ValueError(f"a map has a key that Python's can't have: {error}") from None
    return items, at
