"""Who is who, and who asked for a cancel?"""

from __future__ import annotations

import enum
import uuid as uuids
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Aid:
    """The identity of one actor: one process for one lifetime. The uuid alone decides who it is."""

    name: str
    uuid: bytes
    pid: int
    host: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Aid) and self.uuid == other.uuid

    def __hash__(self) -> int:
        return hash(self.uuid)

    def __str__(self) -> str:
        return f"{self.name}@{self.uuid.hex()[:8]}"

    @classmethod
    def read(cls, fields: Any) -> Aid:
        """Of a header, or of a payload: an array or a map."""
        if isinstance(fields, dict):
            fields = [fields["name"], fields["uuid"], fields["pid"], fields["host"]]
        name, uuid, pid, host = fields[:4]
        if not (isinstance(name, str) and isinstance(pid, int) and isinstance(host, str) and len(uuid) == 16):
            raise ValueError("a field of an aid is missing, or has the wrong type")
        return cls(name, bytes(uuid), pid, host)

    def header(self) -> list[Any]:
        """As it stands in a frame's header."""
        return [self.name, self.uuid, self.pid, self.host]

    def __teamster__(self) -> dict[str, Any]:
        return {"name": self.name, "uuid": self.uuid, "pid": self.pid, "host": self.host}


class CancelRequest(enum.IntEnum):
    """What kind of request a cancel came from."""

    ACTOR = 0
    NURSERY = 1
    NURSERY_END = 2
    FAILURE = 3
    DROPPED = 4
    DEADLINE = 5
    SIGNAL = 6
    PARENT_LOST = 7
    CONTEXT = 8
    ITSELF = 9


_TEXTS = {
    CancelRequest.ACTOR: "it asked the actor to end",
    CancelRequest.NURSERY: "it cancelled the nursery",
    CancelRequest.NURSERY_END: "its nursery had come to its end",
    CancelRequest.FAILURE: "another part of the nursery had failed",
    CancelRequest.DROPPED: "the caller no longer waits",
    CancelRequest.DEADLINE: "the deadline had passed",
    CancelRequest.SIGNAL: "signal {} had arrived",
    CancelRequest.PARENT_LOST: "the parent is gone",
    CancelRequest.CONTEXT: "it cancelled the context",
    CancelRequest.ITSELF: "the context's task cancelled itself",
}

_NAMES = {request: "".join(word.capitalize() for word in request.name.split("_")) for request in CancelRequest}
_BY_NAME = {name: request for request, name in _NAMES.items()}


@dataclass(frozen=True)
class Canceller:
    """Who asked for a cancel, and how."""

    aid: Aid
    request: CancelRequest
    signal: int = 0

    def __str__(self) -> str:
        return f"{self.aid} ({_TEXTS[self.request].format(self.signal)})"

    @classmethod
    def read(cls, fields: Any) -> Canceller:
        """Of a header: `[aid, request, signal]`; or of a payload: a map."""
        if isinstance(fields, dict):
            request = fields["request"]
            if isinstance(request, dict):
                return cls(Aid.read(fields["aid"]), CancelRequest.SIGNAL, int(request["Signal"]))
            return cls(Aid.read(fields["aid"]), _BY_NAME.get(request, CancelRequest.ACTOR))
        aid, request, signal = fields[:3]
        known = CancelRequest(request) if request in CancelRequest.__members__.values() else CancelRequest.ACTOR
        return cls(Aid.read(aid), known, signal)

    def header(self) -> list[Any]:
        """As it stands in a frame's header."""
        return [self.aid.header(), int(self.request), self.signal]

    def __teamster__(self) -> dict[str, Any]:
        name = _NAMES[self.request]
        request = {name: self.signal} if self.request is CancelRequest.SIGNAL else name
        return {"aid": self.aid.__teamster__(), "request": request}


def new_uuid() -> bytes:
    """One that nobody else has."""
    return uuids.uuid4().bytes
