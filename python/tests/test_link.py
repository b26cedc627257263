"""What may happen next in a context, in any order, and how much may be sent?"""

from __future__ import annotations

import random

import pytest

from teamster._credit import FIRST_WINDOW_BYTES, WINDOW_BYTES, Receiving, Sending
from teamster._frames import STOP_BODY_OVER, STOP_FINISHED, STOP_LEFT, Violation
from teamster._link import KEPT_BYTES, Link, Room
from teamster.errors import Misused


def opened(*, is_callee: bool = True) -> Link:
    link = Link(is_callee=is_callee)
    if is_callee:
        link.start()
    else:
        link.on_started(1)
    link.open_stream()
    link.on_open(1)
    return link


def view(data: bytes) -> memoryview:
    return memoryview(data)


# ---- credit


def test_the_first_window_is_small_and_reading_makes_it_grow() -> None:
    receiving = Receiving()
    assert receiving.on_bytes(FIRST_WINDOW_BYTES) and receiving.grant() is None
    receiving.consume(FIRST_WINDOW_BYTES)
    granted = receiving.grant()
    assert granted == FIRST_WINDOW_BYTES + 2 * FIRST_WINDOW_BYTES
    for _ in range(20):
        receiving.consume(receiving.granted - receiving.consumed)
        receiving.grant()
    assert receiving.window == WINDOW_BYTES


def test_a_sender_that_obeys_is_never_over_the_credit() -> None:
    chance = random.Random(8)
    sending, receiving, waiting = Sending(), Receiving(), 0
    for _ in range(20_000):
        if chance.random() < 0.5:
            count = sending.take_up_to(chance.randrange(1, 10_000))
            assert receiving.on_bytes(count)
            waiting += count
        elif waiting:
            read = chance.randrange(1, waiting + 1)
            receiving.consume(read)
            waiting -= read
        granted = receiving.grant()
        if granted is not None:
            sending.on_credit(granted)
    sending.on_credit(5)  # an old one
    assert sending.up_to >= FIRST_WINDOW_BYTES and waiting <= WINDOW_BYTES


# ---- our user


def test_the_first_word_comes_once_and_before_the_stream() -> None:
    link = Link(is_callee=True)
    with pytest.raises(Misused, match="before `started`"):
        link.open_stream()
    link.start()
    with pytest.raises(Misused, match="called twice"):
        link.start()
    link.open_stream()
    with pytest.raises(Misused, match="opened already"):
        link.open_stream()


def test_who_has_finished_sends_no_more() -> None:
    link = opened()
    assert link.stop(STOP_FINISHED) == STOP_FINISHED and link.stop(STOP_FINISHED) is None
    with pytest.raises(Misused, match="has finished its stream"):
        link.room(1)
    assert link.stop(STOP_LEFT) == STOP_LEFT, "and may say more"


def test_room_is_for_what_the_peer_takes() -> None:
    link = Link(is_callee=True)
    link.start()
    link.open_stream()
    assert link.room(FIRST_WINDOW_BYTES) is Room.NOW
    assert link.room(1) is Room.NO_READER
    link.on_open(1)
    assert link.room(1) is Room.PIECES
    link.sending.on_credit(FIRST_WINDOW_BYTES + 10)
    assert link.room(4) is Room.NOW
    link.on_stop(1, STOP_LEFT)
    assert link.room(6) is Room.IN_TRANSIT and link.room(1) is Room.GONE


# ---- the peer


def test_items_come_once_and_in_order() -> None:
    link = opened()
    link.on_yield(1, view(b"\x01\x02"), 0)
    link.on_yield(1, view(b"\x93\x01"), 2)
    link.on_part(1, view(b"\x02"), 1)
    assert [link.read(), link.take(), link.read(), link.take(), link.read()] == [True, 1, True, 2, False]
    link.on_part(1, view(b"\x03"), 0)
    assert link.read() and link.take() == [1, 2, 3]
    link.on_stop(1, STOP_FINISHED)
    assert not link.read() and link.is_drained


@pytest.mark.parametrize(
    "script",
    [
        lambda link: link.on_open(1),
        lambda link: link.on_started(1),
        lambda link: (link.on_yield(1, view(b"\x93"), 3), link.on_yield(1, view(b"\x01"), 0)),
        lambda link: (link.on_yield(1, view(b"\x93"), 3), link.on_part(1, view(b"\x01"), 1)),
        lambda link: (link.on_yield(1, view(b"\x93"), 3), link.on_part(1, view(b"\x01\x02\x03\x04"), 0)),
        lambda link: (link.on_stop(1, STOP_FINISHED), link.on_yield(1, view(b"\x01"), 0)),
        lambda link: (link.on_stop(1, STOP_LEFT), link.on_stop(1, STOP_FINISHED)),
        lambda link: link.on_yield(1, view(b"\0" * (FIRST_WINDOW_BYTES + 1)), 0),
    ],
    ids=["opened twice", "started by its opener", "two items at once", "less than said", "more than said", "after the stop", "stopped less", "over the credit"],
)
def test_what_the_peer_may_not_say(script: object) -> None:
    assert callable(script)
    with pytest.raises(Violation):
        script(opened())


def test_items_before_the_peer_has_opened_break_the_protocol() -> None:
    link = Link(is_callee=True)
    with pytest.raises(Violation):
        link.on_yield(1, view(b"\x01"), 0)
    link.on_stop(1, STOP_BODY_OVER)  # but it may be over


def test_one_long_item_is_let_in_as_it_arrives_and_only_for_a_reader() -> None:
    link = opened()
    link.on_yield(1, view(b"\0" * FIRST_WINDOW_BYTES), 1 << 20)
    granted = link.credit()
    assert granted is not None and granted > WINDOW_BYTES
    other = Link(is_callee=True)
    other.on_open(1)
    other.on_yield(1, view(b"\0" * FIRST_WINDOW_BYTES), 1 << 20)
    assert other.credit() is None, "nobody reads it"


def test_who_reads_no_more_holds_up_nobody() -> None:
    link = opened()
    link.on_yield(1, view(b"\0" * FIRST_WINDOW_BYTES), 0)
    link.stop(STOP_LEFT)
    assert link.credit() is not None and not link.read() and link.is_drained


def test_where_overruns_are_allowed_the_newest_stay() -> None:
    link = opened()
    link.allow_overruns()
    total = 0
    for number in range(200_000):
        data = b"\xcd" + number.to_bytes(2, "big") if number < 1 << 16 else b"\xce" + number.to_bytes(4, "big")
        link.on_yield(1, view(data), 0)
        link.credit()
        total += 1
    kept = []
    while link.read():
        kept.append(link.take())
    assert kept == list(range(total - len(kept), total)) and link.dropped == total - len(kept)
    assert len(kept) * 5 <= KEPT_BYTES + 5


def test_a_cancel_is_one_and_drops_what_waits() -> None:
    link = opened()
    link.on_yield(1, view(b"\x01"), 0)
    assert link.cancel() and not link.cancel() and not link.read()
    link.on_end()
    assert link.room(1) is Room.IN_TRANSIT
