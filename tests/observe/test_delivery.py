"""What the one who serves left out is on the record of the very run."""

from __future__ import annotations

import asyncio
from typing import Any

from support.apps import DONE
from support.asgi import Server, body, http_scope, settle, start

from streamtrace import RunSummary, StreamTraceMiddleware
from streamtrace.core.delivery import CURRENT_DELIVERY
from streamtrace.testing import RecordingSink


def counts_of(run: RunSummary) -> tuple[Any, ...]:
    return (run.delivery_policy, run.dropped_events, run.dropped_chars, run.joined_events)


async def served(app: Any, *scopes: dict[str, Any]) -> list[RunSummary]:
    """The runs of these requests, which are answered at once."""
    sink = RecordingSink()
    middleware = StreamTraceMiddleware(app, sinks=[sink])
    await asyncio.gather(*(Server().run(middleware, one) for one in scopes))
    await settle(middleware)
    return sink.runs


async def test_counts_of_a_run_are_on_its_record_and_no_others() -> None:
    """Many at once, told from a task that the request starts, as channels are worked off."""

    async def work(number: int) -> None:
        counts = CURRENT_DELIVERY.get()
        assert counts is not None
        counts.policy = "drop"
        for _ in range(number):
            counts.dropped_events += 1
            counts.dropped_chars += 10
            await asyncio.sleep(0)
        counts.joined_events = number + 1

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        number = int(scope["path"].removeprefix("/"))
        said = f'data: {{"type":"token","content":"{number}"}}\n\n'.encode()
        await send(body(said))
        await asyncio.create_task(work(number))
        await send(body(DONE))
        await send(body(more=False))

    runs = await served(app, *(http_scope(f"/{number}") for number in range(5)))
    found = {run.generations[0].text.text: counts_of(run) for run in runs}
    assert found == {str(n): ("drop", n, 10 * n, n + 1) for n in range(5)}


async def test_where_nobody_counts_nothing_is_known() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(DONE, more=False))

    [run] = await served(app, http_scope())
    assert counts_of(run) == (None, None, None, None)
    assert run.to_dict()["delivery"] is None


async def test_where_the_client_was_fast_there_is_a_zero() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        counts = CURRENT_DELIVERY.get()
        assert counts is not None
        counts.policy = "coalesce"
        await send(start())
        await send(body(DONE, more=False))

    [run] = await served(app, http_scope())
    assert counts_of(run) == ("coalesce", 0, 0, 0)
    assert run.to_dict()["delivery"] == {
        "policy": "coalesce",
        "dropped_events": 0,
        "dropped_chars": 0,
        "joined_events": 0,
    }


async def test_a_websocket_is_counted_as_well() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        counts = CURRENT_DELIVERY.get()
        assert counts is not None
        counts.policy, counts.joined_events = "coalesce", 7
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": '{"type":"done"}'})
        await send({"type": "websocket.close"})

    [run] = await served(app, http_scope() | {"type": "websocket"})
    assert counts_of(run) == ("coalesce", 0, 0, 7)


async def test_outside_of_a_request_there_is_nothing_to_add_to() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(DONE, more=False))

    assert CURRENT_DELIVERY.get() is None
    await served(app, http_scope())
    assert CURRENT_DELIVERY.get() is None
