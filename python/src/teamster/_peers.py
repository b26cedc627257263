"""How did an actor end that is not our child? Its line has; its parent has seen the rest, and is asked through the tree."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from . import _frames, errors
from ._ident import Aid, Canceller, new_uuid

if TYPE_CHECKING:
    from ._actor import Actor

DEATH_WITHIN = 0.25
"""Seconds in which a process is gone whose descriptors are."""
TOLD_WITHIN = 1.0
_RUNGS = (None, "Cancel", "Sigterm", "Sigkill")


async def why_lost(actor: Actor, aid: Aid) -> errors.TeamsterError | None:
    """What is known of the end of `aid`, if it has ended: it was cancelled, or it died."""
    death = await death_of(actor, aid)
    return death if death is None or death.canceller is None else errors.Cancelled(death.canceller)


async def death_of(actor: Actor, aid: Aid) -> errors.ActorDied | None:
    """The end of `aid`, if it has ended."""
    if actor.canceller is not None or aid.host != actor.aid.host or not await _is_dead_soon(aid):
        return None
    receipt = await _obituary(actor, aid)
    if receipt is None:
        return errors.ActorDied(aid, "how is not known", None, _death(aid, None, "Unknown", None, None))
    receipt += [None] * (7 - len(receipt))
    asked, _heard, _gone, _reaped, rung, (how, number), stuck = receipt[:7]
    canceller = None if asked is None else Canceller.read(asked)
    exit_kind = [{"Status": number}, {"Signal": number}, "Unknown"][how if how in (0, 1) else 2]
    text = [f"exited with status {number}", f"killed by signal {number}", "how is not known"][how if how in (0, 1) else 2]
    if canceller is not None:
        text = f"it was cancelled by {canceller}"
    death = _death(aid, canceller, exit_kind, _RUNGS[rung] if rung < len(_RUNGS) else None, stuck)
    return errors.ActorDied(aid, text, canceller, death)


def _death(aid: Aid, asked: Canceller | None, exit_kind: Any, rung: str | None, stuck: str | None) -> dict[str, Any]:
    """As Rust has it."""
    return {
        "id": new_uuid(),
        "aid": aid.__teamster__(),
        "exit": exit_kind,
        "asked": None if asked is None else asked.__teamster__(),
        "rung": rung,
        "said": None,
        "in_service": [],
        "stderr_tail": "",
        "stuck": stuck,
    }


async def _is_dead_soon(aid: Aid) -> bool:
    try:
        pidfd = os.pidfd_open(aid.pid)
    except OSError:
        return True
    loop = asyncio.get_running_loop()
    dead = asyncio.Event()
    loop.add_reader(pidfd, dead.set)
    try:
        async with asyncio.timeout(DEATH_WITHIN):
            await dead.wait()
        return True
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)


async def _obituary(actor: Actor, aid: Aid) -> list[Any] | None:
    told: asyncio.Future[list[Any] | None] = actor.loop.create_future()
    waiting = actor.obituaries.setdefault(aid.uuid, [])
    waiting.append(told)
    actor.control.send(_frames.frame([_frames.OBITUARY_ASKED, actor.aid.header(), aid.header()]))
    try:
        async with asyncio.timeout(TOLD_WITHIN):
            return await told
    except TimeoutError:
        return None
    finally:
        if told in waiting:
            waiting.remove(told)
        if not waiting:
            actor.obituaries.pop(aid.uuid, None)
