"""Streams of a real MCP server, asked by the real client, as the middleware tells them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import pytest
from mcp import Client
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.resolve import Elicit, Resolve
from mcp.shared.exceptions import MCPError
from mcp_types import ElicitResult
from pydantic import BaseModel
from support.live import live

from streamtrace import RunSummary, StreamTraceMiddleware
from streamtrace.testing import RecordingSink

OLD, NEW = "legacy", "2026-07-28"
both = pytest.mark.parametrize("mode", [OLD, NEW])


class City(BaseModel):
    city: str


async def which_city(ctx: Context) -> Elicit[City]:
    await ctx.report_progress(1)  # so that the answer is a stream, also in the new protocol
    return Elicit("Which city?", City)


def server() -> MCPServer:
    made = MCPServer("demo")

    @made.tool()
    async def search(query: str, limit: int, ctx: Context) -> str:
        await ctx.report_progress(1, 2, "half")
        await ctx.report_progress(2, 2, "done")
        return f"{limit} of {query}"

    @made.tool()
    async def fail(ctx: Context) -> str:
        await ctx.report_progress(1)
        raise ValueError("no luck")

    @made.tool()
    async def refuse(ctx: Context) -> str:
        await ctx.report_progress(1)
        raise MCPError(code=-32002, message="not there")

    @made.tool()
    async def book(ctx: Context, city: Annotated[City, Resolve(which_city)]) -> str:
        await ctx.report_progress(2)
        return f"booked {city.city}"

    @made.tool()
    async def wait(ctx: Context) -> str:
        await ctx.report_progress(1)
        await asyncio.Event().wait()
        return "never"

    return made


async def runs_of(mode: str, use: Callable[[Client], Awaitable[Any]]) -> list[RunSummary]:
    """The runs that a client's use of an observed server becomes, in their order."""

    async def answer(context: Any, params: Any) -> ElicitResult:
        return ElicitResult(action="accept", content={"city": "Paris"})

    sink = RecordingSink()
    app = StreamTraceMiddleware(server().streamable_http_app(), sinks=[sink])
    async with live(app) as url:
        client = Client(f"{url}/mcp", mode=mode, elicitation_callback=answer)
        async with client:
            await use(client)
    assert {run.dialect for run in sink.runs} <= {"mcp", "unknown"}  # a GET stream says nothing
    return sorted(sink.runs, key=lambda run: run.started_at_ns)


async def calls(mode: str, name: str, **arguments: Any) -> list[RunSummary]:
    """The runs of one call of a tool; what the client raises is not of interest."""

    async def progress(*_: Any) -> None:
        pass

    async def use(client: Client) -> None:
        try:
            await client.call_tool(
                name, arguments, read_timeout_seconds=0.5, progress_callback=progress
            )
        except MCPError:
            await client.list_tools()  # the session ends when the server has heard of it

    return [run for run in await runs_of(mode, use) if run.tool_calls]


@both
async def test_a_tool_call(mode: str) -> None:
    [run] = await calls(mode, "search", query="q", limit=3)
    [call] = run.tool_calls
    assert (run.status, run.issues, run.labels.agent) == (
        "completed",
        {},
        "demo" if mode == NEW else None,
    )
    assert (call.name, call.arguments.text) == ("search", '{"query":"q","limit":3}')
    assert (call.status, call.result.text) == ("completed", "3 of q")
    assert call.ready_ns == 0
    assert call.finished_ns is not None
    assert (run.generations, run.output.text, run.time_to_first_token_ns) == ([], None, None)
    assert (run.run_id, run.thread_id is None) == (call.id, mode == NEW)


@both
async def test_a_tool_that_failed(mode: str) -> None:
    [run] = await calls(mode, "fail")
    [call] = run.tool_calls
    assert (run.status, call.name, call.status) == ("completed", "fail", "error")
    assert call.result.text == "Error executing tool fail"


@both
async def test_an_error_of_the_protocol(mode: str) -> None:
    [run] = await calls(mode, "refuse")
    assert (run.status, run.tool_calls[0].status) == ("error", "error")
    assert run.error is not None
    assert (run.error.type, run.error.message.text) == ("-32002", "not there")


async def test_a_question_in_the_middle_is_answered_and_the_call_goes_on() -> None:
    [run] = await calls(OLD, "book")
    assert (run.status, run.tool_calls[0].result.text) == ("completed", "booked Paris")


async def test_a_question_that_ends_the_call_is_asked_again_with_the_answer() -> None:
    asked, answered = await calls(NEW, "book")
    assert (asked.status, asked.tool_calls[0].status) == ("input_required", "ready")
    assert (answered.status, answered.tool_calls[0].result.text) == ("completed", "booked Paris")


@pytest.mark.parametrize(("mode", "status"), [(OLD, "cancelled"), (NEW, "disconnected")])
async def test_a_call_that_was_cancelled(mode: str, status: str) -> None:
    [run] = await calls(mode, "wait")
    assert (run.status, run.tool_calls[0].status) == (status, "ready")


async def test_the_handshake_is_a_run_without_a_call() -> None:
    async def use(client: Client) -> None:
        await client.list_tools()

    first, *others = [run for run in await runs_of(OLD, use) if run.terminal_seen]
    assert (first.status, first.labels.agent, first.tool_calls) == ("completed", "demo", [])
    assert [run.status for run in others] == ["completed"]
