"""What is known of the end of another actor, and whose call it fails?"""

from __future__ import annotations

import asyncio
import subprocess
from types import SimpleNamespace
from typing import Any

import pytest

from teamster import _peers, errors
from teamster._frames import OBITUARY_ASKED, split
from teamster._ident import Aid, Canceller, CancelRequest

HERE = Aid("here", bytes(range(16)), 7, "host")
ROOT = Canceller(HERE, CancelRequest.ACTOR)


def gone() -> Aid:
    """One whose process has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return Aid("gone", bytes(16), process.pid, "host")


def tell(aid: Aid, receipt: list[Any] | None, ask: Any) -> Any:
    """What `ask` comes to where the tree tells this of the end of `aid`."""

    async def run() -> Any:
        actor: Any = SimpleNamespace(aid=HERE, canceller=None, loop=asyncio.get_running_loop(), obituaries={})

        def send(frame: bytes) -> None:
            header, _ = split(memoryview(frame)[4:])
            assert header[0] == OBITUARY_ASKED and Aid.read(header[2]) == aid
            for told in actor.obituaries[aid.uuid]:
                told.set_result(receipt)

        actor.control = SimpleNamespace(send=send)
        return await ask(actor, aid)

    return asyncio.run(run())


def receipt(asked: Canceller | None, how: int, number: int) -> list[Any]:
    return [None if asked is None else asked.header(), None, None, None, 0, [how, number]]


@pytest.mark.parametrize(
    ("told", "text", "asked"),
    [
        (receipt(None, 0, 3), "exited with status 3", None),
        (receipt(None, 1, 9), "killed by signal 9", None),
        (receipt(ROOT, 0, 0), "it was cancelled by", ROOT),
        (None, "how is not known", None),
    ],
    ids=["exited", "killed", "cancelled", "nobody knows"],
)
def test_a_call_that_comes_too_late_is_told_how_its_actor_has_ended(
    told: list[Any] | None, text: str, asked: Canceller | None
) -> None:
    death = tell(gone(), told, _peers.death_of)
    assert isinstance(death, errors.ActorDied) and text in str(death)
    assert death.canceller == asked
    inner = death._as_rust["ActorDied"]["inner"]
    assert inner["asked"] == (None if asked is None else asked.__teamster__())


def test_a_call_that_was_cut_off_by_a_cancel_is_cancelled() -> None:
    lost = tell(gone(), receipt(ROOT, 0, 0), _peers.why_lost)
    assert isinstance(lost, errors.Cancelled) and lost.canceller == ROOT
    lost = tell(gone(), receipt(None, 1, 9), _peers.why_lost)
    assert isinstance(lost, errors.ActorDied)
