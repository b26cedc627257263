"""What is a child told at birth? The boot message, which comes on its stdin."""

from __future__ import annotations

import os
import resource
import sys
from dataclasses import dataclass
from typing import Any

from . import _codec
from ._ident import Aid

MAX_BOOT_BYTES = 60 * 1024

SOCKET_DIGITS = 16
"""So many hex digits of an actor's uuid name its socket."""

Addr = tuple[str, ...] | tuple[str, str, int]
"""`("uds", path)` or `("insecure", host, port)`: those that we can use."""


class BootFailed(Exception):
    """This process can't become an actor."""


@dataclass(frozen=True)
class Spec:
    """What of the boot message a Python program needs."""

    aid: Aid
    parent: Aid
    root: Aid
    parent_addrs: list[Any]
    root_addrs: list[Any]
    registrar: Any
    folder: str
    data_token: bytes
    control_token: bytes
    grace: float
    max_frame_bytes: int
    expose: list[str] | None
    log: str | None
    umask: int | None
    nice: int | None
    rlimits: list[tuple[int, int, int]]
    transports: list[str]
    is_worker: bool

    @property
    def socket_path(self) -> str:
        """Where this actor's own socket stands."""
        return os.path.join(self.folder, self.aid.uuid.hex()[:SOCKET_DIGITS] + ".s")


def read(fd: int) -> Spec | None:
    """Reads the message. `None`: whoever was to send it is gone.

    Raises:
        BootFailed: what came is no boot message of our protocol.
    """
    head = _read_exactly(fd, 4)
    if head is None:
        return None
    length = int.from_bytes(head, "little")
    if length > MAX_BOOT_BYTES:
        raise BootFailed(f"reading the boot message: {length} bytes: is something else on stdin?")
    body = _read_exactly(fd, length)
    return None if body is None else parse(body)


def parse(body: bytes) -> Spec:
    """The message of these bytes.

    Raises:
        BootFailed: they are none.
    """
    try:
        told = _codec.unpack(body)
        major, minor = told["protocol"]
        if major != 1:
            raise BootFailed(f"the parent speaks protocol {major}.{minor}, we speak 1.0")
        return Spec(
            aid=Aid.read(told["aid"]),
            parent=Aid.read(told["parent"]),
            root=Aid.read(told["root"]),
            parent_addrs=told["parent_addrs"],
            root_addrs=told["root_addrs"],
            registrar=told["registrar"],
            folder=told["folder"],
            data_token=bytes(told["data_token"]),
            control_token=bytes(told["control_token"]),
            grace=told["grace_ms"] / 1000,
            max_frame_bytes=told["max_frame_bytes"],
            expose=told["expose"],
            log=told["log"],
            umask=told["umask"],
            nice=told["nice"],
            rlimits=[tuple(limit) for limit in told["rlimits"]],
            transports=told["transports"],
            is_worker=told["is_worker"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BootFailed(f"decoding the boot message: {type(error).__name__}: {error}") from None


def _read_exactly(fd: int, length: int) -> bytes | None:
    data = b""
    while len(data) < length:
        chunk = os.read(fd, length - len(data))
        if not chunk:
            return None
        data += chunk
    return data


def apply(spec: Spec) -> None:
    """What of it belongs to the process. What the system refuses is said, and we go on."""

    try:
        with open("/proc/self/comm", "w") as title:
            title.write(f"teamster:{spec.aid.name}")
    except OSError:
        pass  # a process without a title is none the worse
    if spec.umask is not None:
        os.umask(spec.umask)
    if spec.nice is not None:
        try:
            os.setpriority(os.PRIO_PROCESS, 0, spec.nice)
        except OSError as error:
            print(f"teamster: can't set the nice value {spec.nice}: {error}", file=sys.stderr)
    for number, soft, hard in spec.rlimits:
        try:
            resource.setrlimit(number, (_limit(soft), _limit(hard)))
        except (OSError, ValueError) as error:
            print(f"teamster: can't set the resource limit {number}: {error}", file=sys.stderr)


def _limit(number: int) -> int:
    return resource.RLIM_INFINITY if number == (1 << 64) - 1 else number
