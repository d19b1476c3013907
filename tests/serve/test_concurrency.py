"""How many streams a user may have open; and that every slot comes back."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from support.asgi import until
from support.doors import (
    ALICE,
    check_slots,
    check_slots_are_free_after_cancellation,
    check_slots_under_concurrency,
    eventually,
    is_full,
)
from support.live import live
from support.raw_http import ask, request

from streamtrace.core.errors import ConfigError, Refusal
from streamtrace.serve.answers import send_refusal
from streamtrace.serve.auth import User
from streamtrace.serve.concurrency import Concurrency, MemoryLeases


async def test_two_at_once() -> None:
    await check_slots(Concurrency(2))


async def test_never_more_however_many_come_at_once() -> None:
    await check_slots_under_concurrency(Concurrency(2))


async def test_a_cancelled_stream_gives_its_slot_back() -> None:
    await check_slots_are_free_after_cancellation(Concurrency(2))


async def test_nothing_is_kept_of_who_went() -> None:
    leases = MemoryLeases()
    concurrency = Concurrency(1, leases=leases)
    for number in range(100):
        async with concurrency.slot(User(str(number))):
            assert await is_full(concurrency, User(str(number)))
    assert leases._held == {}


async def test_without_a_user_slots_are_shared_or_the_addresss() -> None:
    shared, by_address = Concurrency(1), Concurrency(1, by_address=True)
    async with shared.slot(None, "192.0.2.1"), by_address.slot(None, "192.0.2.1"):
        with pytest.raises(Refusal):
            async with shared.slot(None, "192.0.2.2"):
                pass
        async with by_address.slot(None, "192.0.2.2"):
            pass
        with pytest.raises(Refusal):
            async with by_address.slot(None, "192.0.2.1"):
                pass


@pytest.mark.parametrize("most", [0, -1])
def test_a_limit_lets_somebody_in(most: int) -> None:
    with pytest.raises(ConfigError, match="max_streams"):
        Concurrency(most)


class SlowLeases(MemoryLeases):
    """As over a network: what takes a slot may arrive later than what gives it back, and what was
    cancelled may have been done all the same."""

    renew_every_s = 0.001

    def __init__(self) -> None:
        super().__init__()
        self.renewed: list[str] = []

    async def acquire(self, key: str, lease: str, most: int) -> bool:
        self.sent = asyncio.create_task(self._acquire(key, lease, most))
        return await asyncio.shield(self.sent)

    async def _acquire(self, key: str, lease: str, most: int) -> bool:
        await _turns()
        held = await super().acquire(key, lease, most)
        await _turns()
        return held

    async def was_renewed(self) -> bool:
        return len(self.renewed) >= 3

    async def renew(self, key: str, lease: str) -> None:
        await _turns()
        self.renewed.append(lease)

    async def release(self, key: str, lease: str) -> None:
        await super().release(key, lease)
        await _turns()


async def _turns() -> None:
    for _ in range(6):
        await asyncio.sleep(0)


async def test_a_slot_comes_back_wherever_its_task_was_cancelled() -> None:
    leases = SlowLeases()
    concurrency = Concurrency(2, leases=leases)
    await check_slots_are_free_after_cancellation(concurrency)
    await concurrency.aclose()
    assert leases._held == {}


async def test_a_slot_comes_back_in_a_scope_where_every_await_is_cancelled() -> None:
    """As Starlette cancels the body of a response whose client left."""
    leases = SlowLeases()
    concurrency = Concurrency(1, leases=leases)
    async with anyio.create_task_group() as group:

        async def stream() -> None:
            async with concurrency.slot(ALICE):
                group.cancel_scope.cancel()
                await anyio.sleep_forever()

        group.start_soon(stream)
    await concurrency.aclose()
    assert leases._held == {}


async def test_a_slot_is_renewed_as_long_as_it_is_held() -> None:
    leases = SlowLeases()
    concurrency = Concurrency(1, leases=leases)
    async with concurrency.slot(ALICE):
        await eventually(leases.was_renewed)
        assert len(set(leases.renewed)) == 1
    assert len(asyncio.all_tasks()) == 1  # nothing renews it any more


async def test_a_renewal_that_fails_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(SlowLeases):
        async def renew(self, key: str, lease: str) -> None:
            await super().renew(key, lease)
            raise Refusal(503, "unavailable", "x")

    leases = Failing()
    concurrency = Concurrency(1, leases=leases)
    async with concurrency.slot(ALICE):
        await eventually(leases.was_renewed)
    assert leases._held == {}


async def test_a_release_that_fails_does_not_fail_the_stream() -> None:
    class Failing(SlowLeases):
        async def release(self, key: str, lease: str) -> None:
            raise Refusal(503, "unavailable", "x")

    concurrency = Concurrency(1, leases=Failing())
    async with concurrency.slot(ALICE):
        pass
    await concurrency.aclose()


# Behind a real server: however the stream ends.


class Streams:
    """An app whose streams end as their path says."""

    def __init__(self) -> None:
        self.leases = MemoryLeases()
        self.concurrency = Concurrency(1, leases=self.leases)
        self.app = Starlette(
            routes=[Route("/{how}", self.stream)], exception_handlers={Refusal: self.refused}
        )

    async def are_over(self) -> bool:
        return not self.leases._held

    async def stream(self, asked: Request) -> Response:
        slot = self.concurrency.slot(ALICE)
        await slot.__aenter__()
        how = asked.path_params["how"]

        async def frames() -> Any:
            try:
                yield "data: 1\n\n"
                if how == "fails":
                    raise ConnectionError
                while how == "goes-on":
                    await asyncio.sleep(0.01)
                    yield ": x\n\n"
            finally:
                await slot.__aexit__(None, None, None)

        return StreamingResponse(frames(), media_type="text/event-stream")

    async def refused(self, asked: Request, error: Exception) -> Any:
        assert isinstance(error, Refusal)

        class Sent(Response):
            async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
                await send_refusal(error, scope, send)

        return Sent()


@pytest.mark.parametrize("how", ["ends", "fails", "goes-on"])
async def test_however_a_stream_ends_its_slot_is_free(how: str) -> None:
    streams = Streams()
    async with live(streams.app) as url:
        host, _, port = url.removeprefix("http://").partition(":")
        for _ in range(3):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(request(f"/{how}", b"", {}, "GET"))
            assert b" 200 " in await reader.readuntil(b"\r\n")
            if how == "goes-on":
                answer = await ask(url, request("/ends", b"", {}, "GET"))
                assert (answer.status, answer.json["error"]["type"]) == (429, "too_many_streams")
                assert int(answer.headers["retry-after"]) > 0
            writer.close()
            await eventually(streams.are_over)
    await until(lambda: not streams.concurrency._tasks)
