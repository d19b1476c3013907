"""Tickets let in once, at one place, for a short time, and are written down nowhere."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Mount, Route
from support.asgi import Server, http_scope
from support.doors import ALICE, check_tickets, check_tickets_under_concurrency
from support.live import live
from support.raw_http import Answer, ask, request

from streamtrace import StreamTraceMiddleware
from streamtrace.core.errors import ConfigError, Refusal
from streamtrace.serve.answers import send_refusal
from streamtrace.serve.auth import ApiKeyAuth, AuthRequest, User, any_of, authenticate
from streamtrace.serve.limits import RateLimit
from streamtrace.serve.tickets import (
    MemoryTicketStore,
    TicketAuth,
    Tickets,
    take_ticket,
    ticket_route,
)
from streamtrace.sinks.otel import OTelSink
from streamtrace.sinks.prometheus import PrometheusSink
from streamtrace.testing import RecordingSink

KEY = "st-0123456789abcdef"
JSON = {"Content-Type": "application/json", "X-Api-Key": KEY}


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_a_ticket_lets_in_once_at_one_path() -> None:
    await check_tickets(Tickets())


async def test_of_many_at_once_one_gets_in() -> None:
    await check_tickets_under_concurrency(Tickets())


async def test_a_ticket_expires() -> None:
    clock = Clock()
    tickets = Tickets(MemoryTicketStore(clock=clock), ttl_s=30)
    early, late = [await tickets.issue(ALICE, "/") for _ in range(2)]
    clock.now += 29.9
    assert await tickets.redeem(early, "/") == ALICE
    clock.now += 0.1
    assert await tickets.redeem(late, "/") is None


async def test_a_full_store_refuses_until_one_expires_or_is_used() -> None:
    clock = Clock()
    tickets = Tickets(MemoryTicketStore(3, clock=clock), ttl_s=30)
    issued = []
    for _ in range(3):
        issued.append(await tickets.issue(ALICE, "/"))
        clock.now += 0.9
    with pytest.raises(Refusal) as caught:
        await tickets.issue(ALICE, "/")
    assert (caught.value.status, caught.value.headers) == (503, {"Retry-After": "28"})
    clock.now += int(caught.value.headers["Retry-After"])
    issued.append(await tickets.issue(ALICE, "/"))
    with pytest.raises(Refusal):
        await tickets.issue(ALICE, "/")
    assert await tickets.redeem(issued[1], "/") == ALICE
    issued.append(await tickets.issue(ALICE, "/"))
    assert [await tickets.redeem(ticket, "/") is not None for ticket in issued] == [
        False, False, True, True, True
    ]  # fmt: skip


async def test_the_bytes_are_bounded_as_well() -> None:
    tickets = Tickets(MemoryTicketStore(max_bytes=3000))
    big = User("a", None, {"more": "x" * 1000})
    issued = [await tickets.issue(big, "/") for _ in range(2)]
    with pytest.raises(Refusal):
        await tickets.issue(big, "/")
    assert await tickets.redeem(issued[0], "/") == big
    await tickets.issue(big, "/")


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["issue", "redeem", "wait"]), st.integers(0, 20)), max_size=60
    )
)
def test_the_store_never_outgrows_its_bounds_and_forgets_nobody(steps: Any) -> None:
    async def play() -> None:
        clock = Clock()
        store = MemoryTicketStore(5, 500, clock=clock)
        tickets = Tickets(store, ttl_s=10)
        held: dict[str, float] = {}
        for what, number in steps:
            if what == "issue":
                try:
                    held[await tickets.issue(User("x" * number), "/")] = clock.now + 10
                except Refusal:
                    assert len(held) >= 5 or store._bytes + 30 + number > 500
            elif what == "wait":
                clock.now += number
                held = {ticket: ends for ticket, ends in held.items() if ends > clock.now}
            elif held:
                ticket = sorted(held)[number % len(held)]
                del held[ticket]
                assert await tickets.redeem(ticket, "/") is not None
            assert len(store._waiting) <= 5
            assert store._bytes == sum(len(value) for _, value in store._waiting.values()) <= 500
        for ticket in held:
            assert await tickets.redeem(ticket, "/") is not None

    asyncio.run(play())


async def test_a_store_holds_no_ticket() -> None:
    store = MemoryTicketStore()
    ticket = await Tickets(store).issue(ALICE, "/")
    assert ticket not in repr(vars(store))


@pytest.mark.parametrize("ttl_s", [0, -1, 301])
def test_a_wrong_time_to_live_fails_at_construction(ttl_s: int) -> None:
    with pytest.raises(ConfigError, match="ttl_s"):
        Tickets(ttl_s=ttl_s)


@pytest.mark.parametrize("bounds", [(0, 1), (1, 0), (-1, 1)])
def test_a_store_needs_room(bounds: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        MemoryTicketStore(*bounds)


@pytest.mark.parametrize(
    ("query", "ticket", "left"),
    [
        (b"", None, b""),
        (b"a=1&b=2", None, b"a=1&b=2"),
        (b"tickets=1", None, b"tickets=1"),
        (b"ticket=T", "T", b""),
        (b"a=1&ticket=T&b=%20", "T", b"a=1&b=%20"),
        (b"ticket=", "", b""),
        (b"ticket=T&ticket=U", "T U", b""),
        (b"ticket=%ff\xff", "%ff\xff", b""),
    ],
)
def test_a_ticket_is_taken_out_of_the_query(query: bytes, ticket: str | None, left: bytes) -> None:
    scope = http_scope(query_string=query)
    assert take_ticket(scope) == ticket
    assert scope["query_string"] == left


# An app with tickets: a page posts for one, and opens a stream with it.


def make_app(tickets: Tickets, **options: Any) -> Starlette:
    keys = ApiKeyAuth({KEY: ALICE})
    auth = any_of(TicketAuth(tickets), keys)

    async def stream(asked: Request) -> Response:
        user = await authenticate(auth, AuthRequest.of(asked.scope))

        async def frames() -> Any:
            yield f"data: {json.dumps({'user': user.id, 'query': asked.url.query})}\n\n"

        return StreamingResponse(frames(), media_type="text/event-stream")

    async def refusing(asked: Request, error: Exception) -> Any:
        assert isinstance(error, Refusal)

        class Sent(Response):
            async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
                await send_refusal(error, scope, send)

        return Sent()

    return Starlette(
        routes=[
            Route("/tickets", ticket_route(keys, tickets, **options)),
            Route("/stream", stream),
            Route("/Größe/{x}", stream),
            Mount("/sub", routes=[Route("/stream", stream)]),
        ],
        exception_handlers={Refusal: refusing},
    )


async def ticket_for(url: str, path: str) -> str:
    body = json.dumps({"path": path}).encode()
    answer = await ask(url, request("/tickets", body, JSON))
    assert answer.status == 200
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json.keys() == {"ticket", "expires_in_s"}
    assert answer.json["expires_in_s"] == 30
    ticket: str = answer.json["ticket"]
    return ticket


async def open_stream(url: str, target: str) -> Answer:
    """The head, with the status; a stream has no length, so no body is read."""
    return await ask(url, request(target, b"", {}, "GET"))


async def test_a_stream_is_opened_with_a_ticket() -> None:
    async with live(make_app(Tickets())) as url:
        for path in ("/stream", "/sub/stream", "/Gr%C3%B6%C3%9Fe/a%20b"):
            ticket = await ticket_for(url, path)
            assert (await open_stream(url, f"{path}?a=1&ticket={ticket}")).status == 200
            again = await open_stream(url, f"{path}?a=1&ticket={ticket}")
            unknown = await open_stream(url, f"{path}?ticket={'A' * 43}")
            elsewhere = await open_stream(url, f"/stream?ticket={await ticket_for(url, '/other')}")
            garbage = await open_stream(url, f"{path}?ticket=%00%0d%0aSet-Cookie:x")
            refused = [again, unknown, elsewhere, garbage]
            assert {answer.status for answer in refused} == {401}
            assert len({answer.body for answer in refused}) == 1
            nobody = await open_stream(url, path)
            assert (nobody.status, nobody.json["error"]["type"]) == (401, "unauthenticated")


BAD_ASKS: dict[str, tuple[bytes, int, str]] = {
    "get": (request("/tickets", b"", JSON, "GET"), 405, "method_not_allowed"),
    "no key": (
        request("/tickets", b"{}", {"Content-Type": "application/json"}),
        401,
        "unauthenticated",
    ),
    "wrong key": (
        request("/tickets", b"{}", {**JSON, "X-Api-Key": KEY + "x"}),
        401,
        "invalid_token",
    ),
    "form": (
        request("/tickets", b"path=/stream", {**JSON, "Content-Type": "text/plain"}),
        415,
        "unsupported_media_type",
    ),
    "malformed": (request("/tickets", b"{", JSON), 400, "malformed_json"),
    "large": (request("/tickets", b" " * 20_000, JSON), 413, "body_too_large"),
    "no path": (request("/tickets", b"{}", JSON), 400, "invalid_path"),
    "path as list": (request("/tickets", b'{"path": ["/"]}', JSON), 400, "invalid_path"),
    "relative": (request("/tickets", b'{"path": "stream"}', JSON), 400, "invalid_path"),
    "line break": (request("/tickets", b'{"path": "/a\\r\\nb"}', JSON), 400, "invalid_path"),
    "long": (
        request("/tickets", b'{"path": "/%s"}' % (b"a" * 2000), JSON),
        400,
        "invalid_path",
    ),
}


@pytest.mark.parametrize(("sent", "status", "code"), BAD_ASKS.values(), ids=BAD_ASKS)
async def test_no_ticket_for_a_bad_request(sent: bytes, status: int, code: str) -> None:
    async with live(make_app(Tickets())) as url:
        answer = await ask(url, sent)
    assert (answer.status, answer.json["error"]["type"]) == (status, code)
    assert (answer.headers.get("allow") == "POST") is (status == 405)


async def test_tickets_can_be_limited() -> None:
    async with live(make_app(Tickets(), limit=RateLimit("2/hour"))) as url:
        for _ in range(2):
            await ticket_for(url, "/stream")
        answer = await ask(url, request("/tickets", b'{"path": "/stream"}', JSON))
    assert answer.status == 429
    assert int(answer.headers["retry-after"]) > 0


async def test_who_leaves_while_it_asks_is_not_answered() -> None:
    server = Server(incoming=[{"type": "http.disconnect"}])
    scope = http_scope(headers=[(b"content-type", b"application/json")])
    await server.run(ticket_route(ApiKeyAuth({KEY: ALICE}), Tickets()), scope)
    assert server.sent == []


async def test_a_ticket_is_written_down_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    recording, registry = RecordingSink(content="full"), CollectorRegistry()
    spans = InMemorySpanExporter()
    otel = OTelSink(exporter=spans)
    sinks = [recording, otel, PrometheusSink(registry=registry)]
    app = StreamTraceMiddleware(make_app(Tickets()), sinks=sinks, content="full")
    access = logging.getLogger("uvicorn.access")
    caplog.set_level(logging.DEBUG)
    access.addHandler(caplog.handler)
    issued = []
    try:
        async with live(app, log_config=None, log_level="debug") as url:
            caplog.set_level(logging.DEBUG, "uvicorn.access")
            for path in ("/stream", "/sub/stream"):
                issued.append(await ticket_for(url, path))
                used = f"{path}?seen=1&ticket={issued[-1]}"
                assert (await open_stream(url, used)).status == 200
                assert (await open_stream(url, used)).status == 401
    finally:
        access.removeHandler(caplog.handler)
    runs = await asyncio.to_thread(recording.wait, 2)
    assert await asyncio.to_thread(otel.flush, 10)
    written = {
        "records": repr((recording.started, recording.events, runs)),
        "spans": repr([span.to_json() for span in spans.get_finished_spans()]),
        "metrics": generate_latest(registry).decode(),
        "logs": caplog.text,
    }
    otel.close(10)
    assert "/stream?seen=1" in written["logs"]  # the access log does write queries
    assert "/sub/stream" in written["spans"]
    for where, what in written.items():
        for ticket in issued:
            assert ticket not in what, where
