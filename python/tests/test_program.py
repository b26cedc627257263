"""What can be called, by which path, and what does an exception say?"""

from __future__ import annotations

import functools
import logging
from collections.abc import AsyncIterator, Iterator

import pytest

import teamster
from teamster import _actor, _logs, _registry, _spec, errors
from teamster._codec import pack, unpack
from teamster._ident import Aid

HERE = Aid("frank", bytes(range(16)), 7, "here")


@pytest.fixture(autouse=True)
def _empty() -> Iterator[None]:
    kept = dict(_registry.ENDPOINTS)
    yield
    _registry.ENDPOINTS.clear()
    _registry.ENDPOINTS.update(kept)
    _registry.TWICE.clear()


def test_a_path_is_the_module_and_the_function() -> None:
    @teamster.rpc
    async def inner(a: int, b: int = 2) -> int:
        return a + b

    path = f"{__name__}::test_a_path_is_the_module_and_the_function::inner"
    endpoint = _registry.find(path, None)
    assert (endpoint.kind, endpoint.is_async, endpoint.least, endpoint.most) == ("call", True, 1, 2)
    assert endpoint.parameters == [("a", "int"), ("b", "int")] and endpoint.output == "int"
    assert endpoint.misfit(1) is None and endpoint.misfit(3) == f"{path} takes 1 to 2 arguments, and 3 came"


def test_kinds_are_told_by_the_function() -> None:
    @teamster.rpc(name="a::stream")
    async def stream() -> AsyncIterator[int]:
        yield 1

    @teamster.rpc(name="a::plain_stream")
    def plain_stream() -> Iterator[int]:
        yield 1

    @teamster.rpc(name="a::plain")
    def plain(*numbers: int) -> None: ...

    @teamster.context(name="a::linked")
    async def linked(ctx: teamster.Context, n: int) -> None: ...

    for path, is_async in [("a::stream", True), ("a::plain_stream", False)]:
        assert (_registry.find(path, None).kind, _registry.find(path, None).is_async) == ("stream", is_async)
    assert not _registry.find("a::plain", None).is_async and _registry.find("a::plain", None).most is None
    assert _registry.find("a::linked", None).least == 1


def test_what_can_be_no_endpoint_says_why() -> None:
    with pytest.raises(TypeError, match="has no name by which it could be called"):
        teamster.rpc(functools.partial(pow, 3))
    teamster.rpc(name="a::partial")(functools.partial(pow, 3))
    with pytest.raises(TypeError, match="a::yields: a context sends by its stream"):

        @teamster.context(name="a::yields")
        async def yields(ctx: teamster.Context) -> AsyncIterator[int]:
            yield 1


def test_what_can_not_be_called_says_why() -> None:
    @teamster.rpc(name="a::one")
    def one() -> None: ...

    assert _registry.find("a::none", None) == "NoSuchEndpoint"
    assert _registry.find("a::one", ["b", "a::on"]) == "NotExposed"
    assert _registry.find("a::one", ["a"]).path == "a::one"
    assert _registry.find("teamster.endpoints", []).path == "teamster.endpoints"
    teamster.rpc(name="a::one")(lambda: None)
    told = _registry.find("a::one", None)
    assert isinstance(told, dict) and set(told["Ambiguous"]) == {"first", "second"}


def test_a_misuse_is_told_where_it_stands() -> None:
    with pytest.raises(ValueError, match="can't be called"):
        teamster.rpc(name="teamster.own")(lambda: None)
    with pytest.raises(TypeError, match="first argument of a context"):
        teamster.context(name="a::b")(lambda: None)

    def keyword(*, n: int) -> None: ...

    with pytest.raises(TypeError, match="keyword-only"):
        teamster.rpc(name="a::b")(keyword)


def test_outside_of_an_actor_it_says_so() -> None:
    with pytest.raises(teamster.NotAnActor, match="was not started as an actor"):
        teamster.run()
    with pytest.raises(teamster.NotAnActor):
        teamster.parent()
    assert not teamster.is_child() and not teamster.is_cancelled()


def test_an_exception_is_told_with_its_chain_and_its_traceback() -> None:
    def fails() -> None:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise ValueError("second") from error

    with pytest.raises(ValueError) as caught:
        fails()
    told = unpack(pack(errors.failed(caught.value, HERE)))["Failed"]
    assert (told["type_name"], told["message"], told["chain"]) == ("ValueError", "second", ["KeyError: 'first'"])
    assert told["location"].startswith(__file__) and 'raise ValueError("second") from error' in told["backtrace"]
    assert told["path"] == [HERE.__teamster__()]


def test_an_exception_that_can_not_be_printed_is_told_all_the_same() -> None:
    class Silent(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    told = errors.failed(Silent(), HERE)["Failed"]
    assert "its __str__ raised RuntimeError" in told["message"]
    told = errors.failed(ValueError("x" * 1_000_000), HERE)["Failed"]
    assert len(told["message"]) < 300_000 and told["message"].endswith("[cut]")
    told = errors.failed(ValueError("\ud800"), HERE)["Failed"]
    assert told["message"] == "\\ud800"


def test_an_error_that_climbs_keeps_what_it_is() -> None:
    first = errors.failed(ValueError("no"), HERE)
    climbing = errors.from_wire(pack(first), "a::b", HERE)
    assert isinstance(climbing, teamster.RemoteError) and climbing.message == "no"
    there = Aid("middle", bytes(16), 8, "here")
    told = errors.failed(climbing, there)["Failed"]
    assert [aid["name"] for aid in told["path"]] == ["frank", "middle"] and told["id"] == first["Failed"]["id"]


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        ("NotExposed", teamster.NotExposed),
        ("NoSuchEndpoint", teamster.NoSuchEndpoint),
        ({"Ambiguous": {"first": "a", "second": "b"}}, teamster.Ambiguous),
        ({"Deadline": {"after": {"secs": 1, "nanos": 500_000_000}}}, teamster.DeadlinePassed),
        ({"NotStarted": {"reason": "it ends"}}, teamster.NotStarted),
        ({"Cancelled": {"aid": HERE.__teamster__(), "request": {"Signal": 2}}}, teamster.Cancelled),
        (errors.codec("Decode", "a::b", "the arguments", "too many"), teamster.CodecError),
        ({"Later": 1}, teamster.CodecError),
        ([], teamster.CodecError),
    ],
    ids=str,
)
def test_each_error_of_the_wire_is_an_exception_of_its_own(told: object, kind: type[Exception]) -> None:
    error = errors.from_wire(pack(told), "a::b", HERE)
    assert type(error) is kind and str(error)


def test_log_lines_travel_by_the_directives() -> None:
    directives = _logs.Directives("warn,my::part=debug,my::part::loud=off")
    assert not directives.lets_through("other", logging.INFO) and directives.lets_through("other", logging.WARNING)
    assert directives.lets_through("my.part.inner", logging.DEBUG) and not directives.lets_through("my.part.loud", 50)
    assert not directives.lets_through("my", logging.DEBUG) and directives.least == logging.DEBUG
    assert _logs.Directives(None).lets_through("any", logging.INFO)


def test_addresses_that_we_can_not_use_are_left_out() -> None:
    usable = _actor.usable_addr
    assert usable({"Uds": "/a"}) == ("uds", "/a")
    place = {"host": {"Ip": {"V4": [127, 0, 0, 1]}}, "port": 7}
    assert usable({"InsecureTcp": place}) == ("insecure", "127.0.0.1", 7)
    assert usable({"Tcp": place}) is None


@pytest.mark.parametrize("body", [b"", b"\x80", b"\xc1", pack({"protocol": [2, 0]}), pack({"protocol": 1})])
def test_a_boot_message_that_is_none_is_told(body: bytes) -> None:
    with pytest.raises(_spec.BootFailed):
        _spec.parse(body)
