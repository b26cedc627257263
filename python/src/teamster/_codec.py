"""How is a value bytes? As msgpack in the layout of docs/wire.md: by the package `msgpack`, or without it by our own."""

from __future__ import annotations

import dataclasses
import enum
import importlib
import os
import uuid
from collections.abc import Iterator
from itertools import chain
from typing import Any

PURE = False
"""Whether values are written and read by Python code."""

msgpack: Any
try:
    if os.environ.get("TEAMSTER_PURE_CODEC") == "1":
        raise ImportError("our own was asked for")
    msgpack = importlib.import_module("msgpack")
except ImportError:
    msgpack = importlib.import_module("._pure", __package__)
    PURE = True

OutOfData: type[Exception] = msgpack.OutOfData

MAX_BYTES = (1 << 31) - 1
"""Bytes of the longest payload that is read: more than a frame may have."""

MAX_DEPTH = 200
"""How deep values may nest, by docs/wire.md."""

SOME_OF_NIL = 83


class CodecError(ValueError):
    """A value could not become bytes, or bytes are no value."""


def _foreign(value: Any) -> Any:
    """What stands for a value whose type msgpack does not know."""
    to_wire = getattr(value, "__teamster__", None)
    if to_wire is not None:
        return to_wire()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, uuid.UUID):
        return value.bytes
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (set, frozenset)):
        return list(value)
    if isinstance(value, int):
        return value.to_bytes(16, "big", signed=value < 0)  # `i128` and `u128`
    try:
        view = memoryview(value)
    except TypeError:
        view = None
    if hasattr(value, "item") and (view is None or view.ndim == 0):
        return value.item()  # one number of numpy's, or of a library's that follows it
    if view is None:
        raise TypeError(f"a {type(value).__name__} can't be sent: send what msgpack knows, or a dataclass of that")
    if getattr(getattr(value, "dtype", None), "hasobject", False):
        raise TypeError("an array of Python's objects can't be sent: send a list of them")
    try:
        return view.cast("B")  # an array of numpy's, as one byte string
    except (TypeError, ValueError):
        return view.tobytes()  # one with gaps, or in another order


def _extension(code: int, data: bytes) -> Any:
    if code == SOME_OF_NIL:
        return None  # `Some(None)`: Python has one None
    raise ValueError(f"an extension of type {code}, which nobody sends to a Python program")


if PURE:
    _packer = msgpack.Packer(default=_foreign)
else:
    _packer = msgpack.Packer(default=_foreign, use_bin_type=True)

_WRONG = (TypeError, ValueError, OverflowError, RecursionError)


def pack(value: Any) -> bytes:
    """The bytes of a value. On the event loop's thread alone.

    Raises:
        CodecError: it has no bytes, or nests too deep.
    """
    try:
        packed: bytes = _packer.pack(value)
    except _WRONG as error:
        _reset()
        raise CodecError(str(error)) from None
    except Exception as error:  # what a foreign `__teamster__` raises
        _reset()
        raise CodecError(f"{type(error).__name__}: {error}") from error
    if len(packed) > MAX_DEPTH and not _is_flat(value):
        raise CodecError(f"it nests more than {MAX_DEPTH} levels deep")
    return packed


_CONTAINERS = frozenset({list, tuple, dict})
_LEAVES = frozenset({type(None), bool, int, float, str, bytes, bytearray, memoryview})


def _is_flat(value: Any) -> bool:
    """Whether it nests no deeper than it may: a level after the other, since most values have few. It has become bytes."""
    level = [value]
    for _ in range(MAX_DEPTH):
        if not _CONTAINERS.issuperset(map(type, level)):
            level = [one for one in map(_resolved, level) if isinstance(one, (list, tuple, dict))]
        if _LEAVES.issuperset(map(type, _inside(level))):
            return True
        level = [one for one in _inside(level) if type(one) not in _LEAVES]
    return not any(isinstance(_resolved(one), (list, tuple, dict)) for one in level)


def _inside(level: list[Any]) -> Iterator[Any]:
    """Items, keys and values."""
    values = (one.values() for one in level if isinstance(one, dict))
    return chain(chain.from_iterable(level), chain.from_iterable(values))


def _resolved(value: Any) -> Any:
    """What of it msgpack sees."""
    while not isinstance(value, (list, tuple, dict, int, float, str, bytes, bytearray, memoryview, msgpack.ExtType, type(None))):
        value = _foreign(value)
    return value


def _reset() -> None:
    """A packer that has failed halfway keeps what it had written."""
    if not PURE:
        _packer.reset()


def packed(*values: Any) -> bytes:
    """The same on any thread, for headers: plain values one behind the other."""
    packer = msgpack.Packer()
    return b"".join(packer.pack(value) for value in values)


def reader() -> Any:
    """What reads values that stand one behind the other: `feed`, `unpack`, `tell`."""
    if PURE:
        return msgpack.Unpacker(ext_hook=_extension)
    return msgpack.Unpacker(
        ext_hook=_extension, strict_map_key=False, max_buffer_size=MAX_BYTES, raw=False, unicode_errors="strict"
    )


def unpack(data: bytes | bytearray | memoryview) -> Any:
    """The value of these bytes; nil of none at all.

    Raises:
        CodecError: they are no value, or more than one.
    """
    if not len(data):
        return None
    try:
        if PURE:
            return msgpack.unpackb(data, ext_hook=_extension)
        return msgpack.unpackb(data, ext_hook=_extension, strict_map_key=False, raw=False)
    except (OutOfData, *_WRONG) as error:
        raise CodecError(str(error) or "the bytes end too early") from None
    except Exception as error:
        raise CodecError(f"{type(error).__name__}: {error}") from None


def unpack_sized(data: bytes | bytearray | memoryview) -> list[tuple[Any, int]]:
    """All values of these bytes, and how many bytes each has.

    Raises:
        CodecError: the last one is not whole, or they are no values.
    """
    values = reader()
    values.feed(data)
    found, at = [], 0
    try:
        while at < len(data):
            value = values.unpack()
            end = values.tell()
            found.append((value, end - at))
            at = end
    except (OutOfData, *_WRONG) as error:
        raise CodecError(str(error) or "the bytes end too early") from None
    except Exception as error:
        raise CodecError(f"{type(error).__name__}: {error}") from None
    return found


def unpack_all(data: bytes | bytearray | memoryview) -> list[Any]:
    """The values alone."""
    return [value for value, _ in unpack_sized(data)]
