"""Do we read and write the examples of docs/wire.md, byte for byte?"""

from __future__ import annotations

import pathlib
import re

import pytest

from teamster import _codec, _frames
from teamster._frames import frame, head_of
from teamster._ident import Aid, Canceller, CancelRequest

WIRE = pathlib.Path(__file__).parents[2] / "docs" / "wire.md"


def examples() -> dict[str, bytes]:
    found = {}
    for name, text in re.findall(r"```hex (\w+)\n(.*?)```", WIRE.read_text(), re.DOTALL):
        digits = []
        for line in text.splitlines():
            # What explains stands behind at least two spaces.
            digits.append(re.split(r"\s{2,}", line.strip())[0])
        found[name] = bytes.fromhex("".join(digits))
    return found


EXAMPLES = examples()
FRANK = Aid("frank", bytes(range(16)), 7, "here")


def test_there_are_examples_of_all_kinds() -> None:
    kinds = {_frames.split(memoryview(data[4:]))[0][0] for data in EXAMPLES.values()}
    assert kinds == _frames.NAMES.keys()


def test_kinds_are_called_what_the_page_calls_them() -> None:
    rows = re.findall(r"^\| (\d+) \| (\w+) \| ", WIRE.read_text(), re.MULTILINE)
    assert {int(number): name for number, name in rows} == _frames.NAMES


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_is_read_whole(name: str) -> None:
    data = EXAMPLES[name]
    assert int.from_bytes(data[:4], "little") == len(data) - 4
    [(header, payload)] = _frames.Frames(1 << 20).feed(data)
    assert frame(header, payload) == data, "and written as it was"


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_is_read_in_pieces_of_any_length(name: str) -> None:
    data = EXAMPLES[name]
    whole = _frames.Frames(1 << 20).feed(data)
    for cut in range(1, len(data)):
        frames = _frames.Frames(1 << 20)
        assert frames.feed(data[:cut]) == []
        assert frames.feed(data[cut:]) == whole


def test_what_we_write_is_what_is_written_there() -> None:
    pack = _codec.pack
    canceller = Canceller(FRANK, CancelRequest.DROPPED)
    written = {
        "hello": frame([_frames.HELLO, [1, 0], FRANK.header(), 0, None, None, [], None]),
        "welcome": frame([_frames.WELCOME, [1, 0], FRANK.header(), (1 << 30) + (1 << 16), True]),
        "bye": frame([_frames.BYE, "idle"]),
        "pong": frame([_frames.PONG, 42]),
        "start_path": frame([_frames.START, 1, 0, 0, None, "demo::add"], pack([1, 2])),
        "start": frame([_frames.START, 3, 0, 0], pack([1, 2])),
        "start_ack": frame([_frames.START_ACK, 3]),
        "open": frame([_frames.OPEN, 3]),
        "stop": frame([_frames.STOP, 3, _frames.STOP_FINISHED]),
        "error": _frames.framed(head_of(_frames.ERROR, 3, False, 0)),
        "cancel": frame([_frames.CANCEL, 3, 1000, canceller.header()]),
        "cancel_ack": frame([_frames.CANCEL_ACK, 3, _frames.ACK_ASKED]),
        "credit": frame([_frames.CREDIT, 3, 32_768]),
        "part": _frames.framed(head_of(_frames.PART, 3, False, 298), b"\0\0"),
        "tasks_gone": frame([_frames.TASKS_GONE]),
        "signalled": frame([_frames.SIGNALLED, 15]),
    }
    for name, data in written.items():
        assert data.hex(" ") == EXAMPLES[name].hex(" "), name


@pytest.mark.parametrize(
    ("kind", "name", "left"),
    [(_frames.STARTED, "started", 0), (_frames.YIELD, "yield", 0), (_frames.YIELD, "yield_long", 300), (_frames.RETURN, "return", 0)],
)
def test_our_headers_differ_from_those_in_the_encoding_alone(kind: int, name: str, left: int) -> None:
    header, _payload = _frames.split(memoryview(EXAMPLES[name][4:]))
    header[2] = _frames.NAMED
    assert _codec.unpack(head_of(kind, 3, True, left)) == header


def test_who_cancels_is_read_and_written() -> None:
    header, _payload = _frames.split(memoryview(EXAMPLES["cancel"][4:]))
    canceller = Canceller.read(header[3])
    assert (canceller.aid, canceller.request) == (FRANK, CancelRequest.DROPPED)
    assert str(canceller) == "frank@00010203 (the caller no longer waits)"
    for request in CancelRequest:
        told = Canceller(FRANK, request, 15 if request is CancelRequest.SIGNAL else 0)
        assert Canceller.read(told.header()) == told
        assert Canceller.read(_codec.unpack(_codec.pack(told))) == told
    assert Canceller.read([FRANK.header(), 77, 0]).request is CancelRequest.ACTOR, "a later version's"


def test_what_stands_behind_the_fields_that_we_know_is_skipped() -> None:
    assert Aid.read([*FRANK.header(), "more"]) == FRANK
    assert Canceller.read([[*FRANK.header(), 1], 4, 0, "more"]).request is CancelRequest.DROPPED


@pytest.mark.parametrize(
    "data",
    [
        b"\0\0\0\0",
        b"\xff\xff\xff\xff",
        b"\x01\0\0\0\xc0",
        b"\x02\0\0\0\x91\x0a",
        b"\x01\0\0\0\x92",
        b"\x02\0\0\0\x91\xa0",
        b"\x01\0\0\0\xc1",
    ],
    ids=["no length", "too long", "no array", "no kind", "cut", "a kind that is text", "no msgpack"],
)
def test_what_breaks_the_protocol_is_said(data: bytes) -> None:
    with pytest.raises(_frames.Violation):
        _frames.Frames(1 << 20).feed(data)


@pytest.mark.parametrize("value", [0, 1, 127, 128, 255, 256, 65_535, 65_536, (1 << 32) - 1, 1 << 32, (1 << 64) - 1])
def test_integers_are_as_short_as_they_can_be(value: int) -> None:
    assert _frames.integer(value) == _codec.pack(value)


@pytest.mark.parametrize("dialog", [1, 127, 128, 255, 256, 65_535, 65_536, (1 << 32) - 1, 1 << 32, (1 << 64) - 1])
@pytest.mark.parametrize("length", [0, 1, 127, 128, 1000])
def test_a_return_is_written_as_any_other_frame(dialog: int, length: int) -> None:
    payload = bytes(length)
    assert _frames.returned(dialog, payload) == frame([_frames.RETURN, dialog, _frames.NAMED], payload)
