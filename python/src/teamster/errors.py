"""How can a call fail? One exception for each thing that a caller can act on, and how they cross as data."""

from __future__ import annotations

import traceback
from typing import Any

from . import _codec
from ._ident import Aid, Canceller, new_uuid

MAX_TEXT_BYTES = 256 * 1024
"""Bytes of the longest text of an error that crosses. What is longer is cut, and says so."""

OUR_TYPE = "teamster::error::Error"


class TeamsterError(Exception):
    """What all errors of this package are."""

    _as_rust: Any = None
    """The same as Rust's `teamster::Error`, as data: so it is one there, too."""


class NotAnActor(TeamsterError):
    """This program was not started as an actor, or does not run as one any more."""


class RemoteError(TeamsterError):
    """An error that happened in another actor.

    Attributes:
        type_name: the type's name over there, as in `std::io::error::Error` or `ValueError`.
        message: its text.
        chain: the texts of what it came from.
        path: the actors that it climbed through, the one where it happened first.
        location: the line of code, if it is known.
        backtrace: the traceback of over there, if there is one.
        panic: whether it was a panic.
    """

    def __init__(self, data: dict[str, Any]) -> None:
        self._data = data
        self.type_name: str = data["type_name"]
        self.message: str = data["message"]
        self.chain: list[str] = data["chain"]
        self.path = [Aid.read(aid) for aid in data["path"]]
        self.location: str | None = data.get("location")
        self.backtrace: str | None = data.get("backtrace")
        self.panic: bool = data.get("panic", False)
        where = self.path[0].name if self.path else "another actor"
        super().__init__(f"{self.type_name} in {where}: {self.message}")

    def is_stream_closed_by(self, aid: Aid, endpoint: str) -> bool:
        """Whether it says no more than that this actor has left the stream of this context."""
        value = self._data.get("value")
        if value is None or value["type_name"] != OUR_TYPE:
            return False
        try:
            closed = _codec.unpack(value["bytes"])["StreamClosed"]
            return bool(closed["endpoint"] == endpoint and Aid.read(closed["aid"]) == aid)
        except (_codec.CodecError, KeyError, TypeError, ValueError):
            return False


class Cancelled(TeamsterError):
    """The task over there was cancelled. A cancel of this task itself is `asyncio.CancelledError`."""

    def __init__(self, canceller: Canceller) -> None:
        super().__init__(f"cancelled by {canceller}")
        self.canceller = canceller
        self._as_rust = {"Cancelled": canceller.__teamster__()}


class DeadlinePassed(TeamsterError):
    """Its deadline passed before it had ended."""

    def __init__(self, after: float) -> None:
        super().__init__(f"the deadline of {after:g} s had passed")
        self.after = after
        self._as_rust = {"Deadline": duration(after)}


class _AtEndpoint(TeamsterError):
    """One that is about an endpoint of another actor."""

    _kind = ""

    def __init__(self, text: str, endpoint: str, aid: Aid, **more: Any) -> None:
        super().__init__(text)
        self.endpoint = endpoint
        self.aid = aid
        self._as_rust = {self._kind: {"endpoint": endpoint, "aid": aid.__teamster__(), **more}}


class NotStarted(_AtEndpoint):
    """It was not started, and won't be: it is safe to ask again."""

    _kind = "NotStarted"

    def __init__(self, endpoint: str, aid: Aid, reason: str) -> None:
        super().__init__(f"{endpoint} was not started in {aid}: {reason}", endpoint, aid, reason=reason)


class Unknown(_AtEndpoint):
    """The line was lost: it may have run, and may run still."""

    _kind = "Unknown"

    def __init__(self, endpoint: str, aid: Aid, reason: str) -> None:
        super().__init__(f"{endpoint} may have run in {aid}: {reason}", endpoint, aid, reason=reason)


class NotStopped(_AtEndpoint):
    """A context's task went on when the grace after its cancel was over."""

    _kind = "NotStopped"

    def __init__(self, endpoint: str, aid: Aid, grace: float) -> None:
        text = f"{endpoint} was asked to end in {aid}, and runs on after its grace of {grace:g} s"
        super().__init__(text, endpoint, aid, grace=duration(grace), heard=True)


class ActorDied(TeamsterError):
    """Its process has ended. Where somebody had asked for that, `canceller` says who: it was called too late."""

    def __init__(self, aid: Aid, how: str, canceller: Canceller | None, death: dict[str, Any]) -> None:
        super().__init__(f"{aid} has died: {how}")
        self.aid = aid
        self.canceller = canceller
        self._as_rust = {"ActorDied": {"inner": death}}


class NotExposed(_AtEndpoint):
    """It may not be called there."""

    _kind = "NotExposed"

    def __init__(self, endpoint: str, aid: Aid) -> None:
        super().__init__(f"{aid} does not expose {endpoint}", endpoint, aid)


class NoSuchEndpoint(_AtEndpoint):
    """The program over there has no such endpoint."""

    _kind = "NoSuchEndpoint"

    def __init__(self, endpoint: str, aid: Aid) -> None:
        super().__init__(f"{aid} has no endpoint {endpoint}", endpoint, aid)


class Ambiguous(TeamsterError):
    """The program over there has two endpoints of that path."""

    def __init__(self, endpoint: str, aid: Aid, first: str, second: str) -> None:
        super().__init__(f"{aid} has two endpoints {endpoint}: {first} and {second}")
        self._as_rust = {"Ambiguous": {"endpoint": endpoint, "first": first, "second": second}}


class CodecError(TeamsterError):
    """Arguments or a result could not become bytes, or were no such value over there."""

    def __init__(self, endpoint: str, value: str, message: str, step: str = "Encode") -> None:
        super().__init__(f"{endpoint}: {value}: {message}")
        self._as_rust = codec(step, endpoint, value, message)


class StreamOverrun(_AtEndpoint):
    """The peer's window is full, and it has opened no stream to read it."""

    _kind = "StreamOverrun"

    def __init__(self, endpoint: str, aid: Aid, dialog: int, window_bytes: int) -> None:
        text = f"{endpoint} (dialog {dialog}): the window of {aid} of {window_bytes} bytes is full, and it has opened no stream"
        super().__init__(text, endpoint, aid, dialog=dialog, window_bytes=window_bytes)


class StreamClosed(_AtEndpoint):
    """Nobody reads what is sent any more."""

    _kind = "StreamClosed"

    def __init__(self, endpoint: str, aid: Aid) -> None:
        super().__init__(f"{endpoint}: {aid} reads no more", endpoint, aid)


class EndOfStream(TeamsterError):
    """The other side sends no more items."""


class Misused(TeamsterError):
    """A call that makes no sense now, such as `started` twice."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._as_rust = {"Usage": text}


class TransportError(TeamsterError):
    """The other actor can't be reached, or can't be understood."""


def type_name_of(error: BaseException) -> str:
    """As Python prints it: built-in types without their module."""
    kind = type(error)
    if kind.__module__ in ("builtins", "__main__"):
        return kind.__qualname__
    if kind.__module__ == __name__:
        return f"teamster.{kind.__qualname__}"
    return f"{kind.__module__}.{kind.__qualname__}"


def _bounded(text: str) -> str:
    # What can't be encoded, such as half of a surrogate pair in a file's name, is shown as an escape.
    data = text.encode(errors="backslashreplace")
    if len(data) <= MAX_TEXT_BYTES:
        return data.decode()
    return data[:MAX_TEXT_BYTES].decode(errors="ignore") + " … [cut]"


def text_of(error: BaseException) -> str:
    """What it says. Its `__str__` may fail, too."""
    try:
        return _bounded(str(error))
    except Exception as failed:
        return f"an error whose text can't be had: its __str__ raised {type(failed).__name__}"


def _below(error: BaseException) -> BaseException | None:
    if error.__cause__ is not None:
        return error.__cause__
    return None if error.__suppress_context__ else error.__context__


def failed(error: BaseException, here: Aid, place: str | None = None) -> dict[str, Any]:
    """What an endpoint's exception is on the wire. `place` is the endpoint's own."""
    if isinstance(error, RemoteError):
        path = [*error._data["path"], here.__teamster__()]
        return {"Failed": {**error._data, "path": path}}
    chain: list[str] = []
    seen = {id(error)}
    below = _below(error)
    while below is not None and id(below) not in seen and len(chain) < 64:
        seen.add(id(below))
        chain.append(_bounded(f"{type_name_of(below)}: {text_of(below)}"))
        below = _below(below)
    location = place
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_OWN_FOLDER)]
    if own:
        location = f"{own[-1].filename}:{own[-1].lineno}"
    value = _value(error)
    return {
        "Failed": {
            "id": new_uuid(),
            "path": [here.__teamster__()],
            "type_name": OUR_TYPE if value is not None else type_name_of(error),
            "message": text_of(error),
            "chain": chain,
            "cause": None,
            "location": location,
            "backtrace": _traceback(error),
            "panic": False,
            "value": value,
        }
    }


_OWN_FOLDER = __file__.rpartition("/")[0] + "/"


def _traceback(error: BaseException) -> str | None:
    """As Python would print it, from the endpoint's own code on."""
    try:
        told = traceback.TracebackException.from_exception(error, compact=True)
        # Our frames below the endpoint say nothing of it.
        own = [frame for frame in told.stack if not frame.filename.startswith(_OWN_FOLDER)]
        told.stack = traceback.StackSummary.from_list(own)
        return _bounded("".join(told.format()))
    except Exception:  # a `__str__` that fails, again
        return None


def _value(error: BaseException) -> dict[str, Any] | None:
    if isinstance(error, TeamsterError) and error._as_rust is not None:
        return {"type_name": OUR_TYPE, "bytes": _codec.pack(error._as_rust)}
    return None


def codec(step: str, endpoint: str, value: str, message: str) -> dict[str, Any]:
    """`step` is `Encode` or `Decode`; `value` says of what: "the arguments", "the result"."""
    inner = {
        "id": new_uuid(),
        "step": step,
        "endpoint": endpoint,
        "value": value,
        "reads": None,
        "writes": None,
        "path": None,
        "message": _bounded(message),
    }
    return {"Codec": {"inner": inner}}


def duration(seconds: float) -> dict[str, int]:
    """As Rust's `Duration` travels."""
    whole = int(seconds)
    return {"secs": whole, "nanos": int((seconds - whole) * 1e9)}


def from_wire(payload: bytes | bytearray | memoryview, endpoint: str, peer: Aid) -> TeamsterError:
    """The exception that the payload of an Error frame is to its caller."""
    try:
        return _from_wire(_codec.unpack(payload), endpoint, peer)
    except (_codec.CodecError, AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        return CodecError(endpoint, "the error", str(error), "Decode")


def _from_wire(told: Any, endpoint: str, peer: Aid) -> TeamsterError:
    kind: str
    data: Any
    kind, data = (told, None) if isinstance(told, str) else next(iter(told.items()))
    match kind:
        case "Failed":
            return RemoteError(data)
        case "Cancelled":
            return Cancelled(Canceller.read(data))
        case "NotExposed":
            return NotExposed(endpoint, peer)
        case "NoSuchEndpoint":
            return NoSuchEndpoint(endpoint, peer)
        case "Ambiguous":
            return Ambiguous(endpoint, peer, data["first"], data["second"])
        case "Codec":
            inner = data.get("inner", data)
            return CodecError(endpoint, inner["value"], inner["message"], inner["step"])
        case "Deadline":
            after = data["after"]
            return DeadlinePassed(after["secs"] + after["nanos"] / 1e9)
        case "NotStarted":
            return NotStarted(endpoint, peer, data["reason"])
    return CodecError(endpoint, "the error", f"it is of a kind that is not known here: {kind}", "Decode")
