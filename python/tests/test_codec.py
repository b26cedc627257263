"""Are values the bytes that docs/wire.md says, by either codec, and are bytes from elsewhere read or refused?"""

from __future__ import annotations

import dataclasses
import enum
import math
import pathlib
import random
import uuid
from typing import Any

import pytest

from teamster import _codec, _pure

msgpack = pytest.importorskip("msgpack")

VALUES: list[Any] = [
    None,
    True,
    False,
    *(sign * (1 << bits) + more for bits in range(0, 63) for sign in (1, -1) for more in (-1, 0, 1)),
    (1 << 64) - 1,
    -(1 << 63),
    0.0,
    -1.5,
    math.inf,
    "",
    "hay",
    "é" * 40,
    "x" * 300,
    "y" * 70_000,
    b"",
    b"\0" * 255,
    b"\1" * 256,
    b"\2" * 65_536,
    [],
    list(range(16)),
    list(range(70_000)),
    {},
    {"a": 1, 2: [3, {"b": None}]},
    {number: number for number in range(20)},
    {number: number for number in range(70_000)},
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:20])
def test_both_codecs_write_the_same_bytes(value: Any) -> None:
    ours = _pure.Packer().pack(value)
    assert ours == msgpack.Packer().pack(value)
    assert _pure.unpackb(ours) == value == msgpack.unpackb(ours, strict_map_key=False)


def test_values_one_behind_the_other_are_read_where_they_end() -> None:
    values = VALUES[:100]
    packer = _pure.Packer()
    data = b"".join(packer.pack(value) for value in values)
    reader = _pure.Unpacker()
    found: list[Any] = []
    at = 0
    chance = random.Random(8)
    while len(found) < len(values):
        try:
            found.append(reader.unpack())
        except _pure.OutOfData:
            step = chance.randrange(1, 9)
            reader.feed(data[at : at + step])
            at += step
    assert found == values
    assert reader.tell() == len(data)


def test_what_is_cut_anywhere_is_out_of_data() -> None:
    data = _pure.Packer().pack([1, "two", b"three", {"four": 5.0}, _pure.ExtType(83, b"\1"), 1 << 40])
    for cut in range(len(data)):
        with pytest.raises(_pure.OutOfData):
            _pure.unpackb(data[:cut])


def test_bytes_from_elsewhere_are_values_or_an_error() -> None:
    def plain(code: int, data: bytes) -> str:
        return f"ext {code} {data!r}"

    chance, read = random.Random(8), 0
    for _ in range(50_000):
        data = chance.randbytes(chance.randrange(1, 30))
        at = chance.randrange(len(data))
        data = data[:at] + bytes([chance.choice(b"\x82\x93\xa2\xc4\xd9\xdc\xde\xd4\xc7")]) + data[at:]
        reader = _pure.Unpacker(ext_hook=plain)
        reader.feed(data)
        try:
            ours = reader.unpack()
        except (_pure.OutOfData, ValueError):
            continue
        if "ext -1 " in repr(ours):
            continue  # a time, for that package
        theirs = msgpack.Unpacker(strict_map_key=False, ext_hook=plain)
        theirs.feed(data)
        assert repr(theirs.unpack()) == repr(ours) and theirs.tell() == reader.tell(), data.hex()
        read += 1
    assert read > 10_000
    with pytest.raises(ValueError, match="too deep"):
        _pure.unpackb(b"\x91" * 10_000)


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Point:
    x: int
    y: int


class Scalar:
    def item(self) -> float:
        return 0.5


class Portal:
    def __teamster__(self) -> list[int]:
        return [7]


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (Point(1, 2), {"x": 1, "y": 2}),
        ([Point(1, 2)], [{"x": 1, "y": 2}]),
        ((1, (2,)), [1, [2]]),
        (Colour.RED, "RED"),
        (uuid.UUID(int=5), (5).to_bytes(16, "big")),
        (pathlib.Path("/a/b"), "/a/b"),
        ({3}, [3]),
        (1 << 100, (1 << 100).to_bytes(16, "big")),
        (-(1 << 100), (-(1 << 100)).to_bytes(16, "big", signed=True)),
        (bytearray(b"x"), b"x"),
        (memoryview(b"xyz")[1:], b"yz"),
        (Portal(), [7]),
        (Scalar(), 0.5),
    ],
    ids=repr,
)
def test_what_travels_as_something_else(value: Any, read: Any) -> None:
    assert _codec.unpack(_codec.pack(value)) == read


def test_point_is_named_as_in_the_wires_description() -> None:
    assert _codec.pack(Point(1, 2)).hex() == "82a17801a17902"


def test_some_of_none_is_none() -> None:
    assert _codec.unpack(bytes.fromhex("d45301")) is None


def test_what_has_no_bytes_is_an_error_and_leaves_nothing_behind() -> None:
    with pytest.raises(_codec.CodecError, match="object can't be sent"):
        _codec.pack([1, 2, object()])
    assert _codec.pack(3) == b"\x03"
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(_codec.CodecError):
        _codec.pack(endless)
    assert _codec.pack(3) == b"\x03"


@pytest.mark.parametrize("data", [b"\xc1", b"\x92\x01", b"\x01\x02", b"\xa1\xff", b"\xd4\x54\x00", b"\x81\x90\x00"])
def test_bytes_that_are_no_value_are_refused(data: bytes) -> None:
    with pytest.raises(_codec.CodecError):
        _codec.unpack(data)


def test_no_bytes_are_nil() -> None:
    assert _codec.unpack(b"") is None


def test_items_are_told_with_their_lengths() -> None:
    assert _codec.unpack_sized(b"\x01\xa1x\xc0") == [(1, 1), ("x", 2), (None, 1)]
    with pytest.raises(_codec.CodecError):
        _codec.unpack_sized(b"\x01\xa2x")


@dataclasses.dataclass
class Node:
    inner: Any


def nested(levels: int, around: Any) -> Any:
    value = 7
    for _ in range(levels):
        value = around(value)
    return value


@pytest.mark.parametrize(
    "around", [lambda value: [value], lambda value: {"a": value}, lambda value: (1, "x" * 90, value), Node], ids=["list", "map", "tuple", "object"]
)
def test_what_nests_200_levels_travels_and_what_nests_deeper_is_its_senders_error(around: Any) -> None:
    assert _codec.pack(_codec.unpack(_codec.pack(nested(200, around)))) == _codec.pack(nested(200, around))
    with pytest.raises(_codec.CodecError, match="200 levels deep"):
        _codec.pack(nested(201, around))
    with pytest.raises(_codec.CodecError):
        _codec.pack(nested(5_000, around))
    assert _codec.pack(3) == b"\x03"


def test_what_numpy_holds_travels_as_numbers_and_bytes() -> None:
    numpy = pytest.importorskip("numpy")
    numbers = [numpy.int64(-5), numpy.uint8(200), numpy.bool_(True), numpy.float32(0.5), numpy.float64(0.25), numpy.array(9)]
    assert _codec.unpack(_codec.pack(numbers)) == [-5, 200, True, 0.5, 0.25, 9]
    table = numpy.arange(6, dtype="<u2").reshape(2, 3)
    for array in (table, table.T, table[:, ::2], table[:0], table.astype(">u4"), numpy.asfortranarray(table)):
        assert _codec.unpack(_codec.pack(array)) == array.tobytes()
    with pytest.raises(_codec.CodecError, match="array of Python's objects"):
        _codec.pack(numpy.array([object()]))
