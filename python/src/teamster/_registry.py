"""What can be called in this program, and under which path?"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar, overload

F = TypeVar("F", bound=Callable[..., Any])

CALL, CONTEXT, STREAM = "call", "context", "stream"
OWN = "teamster."
"""What the paths of our own endpoints begin with: they are no user's to hide."""


@dataclass(frozen=True)
class Endpoint:
    """A function that others may call."""

    path: str
    function: Callable[..., Any]
    kind: str
    is_async: bool
    least: int
    most: int | None
    """How many arguments it takes; `most` is None if as many as there are."""
    parameters: list[tuple[str, str]] = field(default_factory=list)
    output: str = "?"

    def misfit(self, count: int) -> str | None:
        """What is wrong with a call of so many arguments."""
        if count >= self.least and (self.most is None or count <= self.most):
            return None
        least = f"{self.least}" if self.most == self.least else f"at least {self.least}"
        if self.most is not None and self.most != self.least:
            least = f"{self.least} to {self.most}"
        return f"{self.path} takes {least} arguments, and {count} came"


ENDPOINTS: dict[str, Endpoint] = {}
TWICE: dict[str, tuple[str, str]] = {}
"""Paths that stand for two functions, and where those are."""


@overload
def rpc(function: F, /) -> F: ...
@overload
def rpc(*, name: str | None = None) -> Callable[[F], F]: ...
def rpc(function: Any = None, /, *, name: str | None = None) -> Any:
    """Lets other actors call a function.

    An `async def` runs as a task of the event loop; a plain function runs in a thread, so that it may block. A generator,
    async or plain, gives its values as a stream, one after the other, as the caller reads them.

    Its path is `module::function`; the script's own functions stand under the script's name. `name` says another one.

    A cancel raises `asyncio.CancelledError` in the task, once, at its `await`. A thread can't be interrupted: it asks
    `teamster.is_cancelled()`, and every blocking call of `teamster.sync` raises `teamster.Cancelled`.

    >>> import teamster
    >>> @teamster.rpc
    ... async def square(n: int) -> int:
    ...     return n * n
    """
    if function is None:
        return lambda function: _register(function, name, CALL)
    return _register(function, name, CALL)


@overload
def context(function: F, /) -> F: ...
@overload
def context(*, name: str | None = None) -> Callable[[F], F]: ...
def context(function: Any = None, /, *, name: str | None = None) -> Any:
    """Lets other actors open a context with a function: a task that is linked to theirs, and a stream both ways.

    Its first argument is its own side, a `teamster.Context`; a plain function gets a `teamster.sync.Context`.

    >>> import teamster
    >>> @teamster.context
    ... async def count(ctx: teamster.Context, start: int) -> int:
    ...     await ctx.started(start)
    ...     async with ctx.open_stream() as stream:
    ...         async for word in stream:
    ...             start += len(word)
    ...             await stream.send(start)
    ...     return start
    """
    if function is None:
        return lambda function: _register(function, name, CONTEXT)
    return _register(function, name, CONTEXT)


def path_of(function: Callable[..., Any]) -> str:
    """The path of a function that was given none."""
    if not hasattr(function, "__qualname__"):
        raise TypeError(f"{function!r} has no name by which it could be called: give it one, as name=\"module::function\"")
    module = function.__module__
    if module == "__main__":
        main = sys.modules["__main__"]
        spec = getattr(main, "__spec__", None)  # of one that was started by `python -m`
        name = spec.name if spec is not None else os.path.basename(getattr(main, "__file__", None) or "main")
        module = name.removesuffix(".__main__") if spec is not None else name.partition(".")[0]
    return f"{module}.{function.__qualname__}".replace(".<locals>", "").replace(".", "::")


def _register(function: Callable[..., Any], name: str | None, kind: str) -> Any:
    if not callable(function):
        raise TypeError("an endpoint is a function: put the decorator on one, and its name as name=\"…\"")
    path = path_of(function) if name is None else name
    if not path or path.startswith(OWN):
        raise ValueError(f"an endpoint can't be called {path!r}")
    endpoint = described(path, function, kind)
    known = ENDPOINTS.get(path)
    if known is not None:
        TWICE[path] = (place_of(known.function), place_of(function))
    ENDPOINTS[path] = endpoint
    return function


def described(path: str, function: Callable[..., Any], kind: str) -> Endpoint:
    """What is known of a function by its signature."""
    is_async_generator = inspect.isasyncgenfunction(function)
    if is_async_generator or inspect.isgeneratorfunction(function):
        if kind == CONTEXT:
            raise TypeError(f"{path}: a context sends by its stream: `yield` has no place in it")
        kind = STREAM
    is_async = inspect.iscoroutinefunction(function) or is_async_generator
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    signature = inspect.signature(function)
    taken = [parameter for parameter in signature.parameters.values() if parameter.kind in positional]
    if any(
        parameter.kind is inspect.Parameter.KEYWORD_ONLY and parameter.default is inspect.Parameter.empty
        for parameter in signature.parameters.values()
    ):
        raise TypeError(f"{path}: a call has arguments by their places only, so none may be keyword-only")
    if kind == CONTEXT:
        if not taken:
            raise TypeError(f"{path}: the first argument of a context is its own side of it: ctx")
        taken = taken[1:]
    open_end = any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in signature.parameters.values())
    least = sum(parameter.default is inspect.Parameter.empty for parameter in taken)
    shown = [(parameter.name, _shown(parameter.annotation)) for parameter in taken]
    most = None if open_end else len(taken)
    return Endpoint(path, function, kind, is_async, least, most, shown, _shown(signature.return_annotation))


def _shown(annotation: Any) -> str:
    if annotation is inspect.Signature.empty:
        return "?"
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))


def place_of(function: Callable[..., Any]) -> str:
    """Where a function stands: file and line."""
    code = getattr(function, "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else repr(function)


def find(path: str, expose: list[str] | None) -> Endpoint | Any:
    """The endpoint of this path, or what the wire calls the reason why there is none."""
    if path.startswith(OWN):
        return OWN_ENDPOINTS.get(path, "NoSuchEndpoint")
    if path in TWICE:
        first, second = TWICE[path]
        return {"Ambiguous": {"first": first, "second": second}}
    endpoint = ENDPOINTS.get(path)
    if endpoint is None:
        return "NoSuchEndpoint"
    return endpoint if exposes(path, expose) else "NotExposed"


def exposes(path: str, expose: list[str] | None) -> bool:
    """Whether it may be called: the path itself, or a module above it, is on the list."""
    return expose is None or any(path == prefix or path.startswith(prefix + "::") for prefix in expose)


# ---- our own

EXPOSED: list[list[str] | None] = [None]
"""What this actor exposes; set once, at boot."""


async def _is_context(path: str) -> bool:
    endpoint = ENDPOINTS.get(path)
    return endpoint is not None and endpoint.kind != CALL


async def _endpoints() -> list[dict[str, Any]]:
    shown = [endpoint for path, endpoint in sorted(ENDPOINTS.items()) if exposes(path, EXPOSED[0])]
    return [
        {
            "path": endpoint.path,
            "args": endpoint.parameters,
            "output": endpoint.output,
            "is_context": endpoint.kind != CALL,
        }
        for endpoint in shown
    ]


OWN_ENDPOINTS: dict[str, Endpoint] = {}


def add_own(path: str, function: Callable[..., Any]) -> None:
    """One more of ours."""
    OWN_ENDPOINTS[path] = described(path, function, CALL)


add_own("teamster.is_context", _is_context)
add_own("teamster.endpoints", _endpoints)
