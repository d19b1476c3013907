"""A2A: our agent as an executor of the official SDK (the extra `a2a`), on the SDK's own routes.

    AgentRouter().a2a(agent, card)      # /jsonrpc and /.well-known/agent-card.json

Rules that hold here:

* A run is a task, and its thread the task's context. A task lives on when its client leaves;
  `CancelTask` stops its run. A task that waits for input goes on in a run of the same id, which is
  given the answer as `resume`.
* Who is let in is decided before the SDK sees the request, and users see their own tasks only.
* What an A2A client reads is what the dialect writes: the encoder's frames, as the SDK's objects.
* Each update is stored with the whole task, so text is told in pieces of a window, and to clients
  that do not stream as whole messages.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from streamtrace.core import events as ev
from streamtrace.core.errors import Disconnected, MissingExtra, Refusal
from streamtrace.core.jsonio import clean_text
from streamtrace.dialects.base import Envelope
from streamtrace.dialects.encode.a2a import A2AEncoder, A2AToolsEncoder
from streamtrace.serve.answers import retry_later, send_refusal
from streamtrace.serve.asked import new_id, without_secrets
from streamtrace.serve.auth import User
from streamtrace.serve.body import checked_id
from streamtrace.serve.context import Agent, RunContext
from streamtrace.serve.endpoint import Door, begin
from streamtrace.serve.response import Message, Receive, Scope, Send
from streamtrace.serve.run import Run, Settings
from streamtrace.serve.runs import Runs

try:
    from a2a.auth.user import UnauthenticatedUser
    from a2a.auth.user import User as A2AUser
    from a2a.server.agent_execution import AgentExecutor, RequestContext
    from a2a.server.agent_execution.active_task import INTERRUPTED_TASK_STATES
    from a2a.server.context import ServerCallContext
    from a2a.server.events import EventQueue
    from a2a.server.owner_resolver import resolve_user_scope
    from a2a.server.request_handlers import DefaultRequestHandler
    from a2a.server.routes import (
        ServerCallContextBuilder,
        create_agent_card_routes,
        create_jsonrpc_routes,
    )
    from a2a.server.tasks import InMemoryTaskStore, TaskStore, TaskUpdater
    from a2a.types import a2a_pb2 as pb
    from a2a.utils.errors import InternalError, InvalidParamsError
    from google.protobuf.json_format import (  # type: ignore[import-untyped]
        MessageToDict,
        ParseDict,
    )
except ModuleNotFoundError as error:
    raise MissingExtra(error.name or "a2a-sdk", "a2a") from None

MAX_TASKS = 1024
MAX_TASKS_BYTES = 64 * 1024 * 1024

_STREAMS = ("SendStreamingMessage", "message/stream")
_FORGET_WAITING_S = 60.0
_CANCEL_S = 2.0
_CALLER = "streamtrace.caller"


class A2AExecutor(AgentExecutor):
    """Runs an agent for each message. `tell_tools` tells clients of tool calls, as Google's ADK
    does; else what the agent does on its way is its own business."""

    def __init__(
        self,
        agent: Agent,
        *,
        runs: Runs | None = None,
        settings: Settings = Settings(),  # noqa: B008  immutable
        tell_tools: bool = False,
    ) -> None:
        self.runs = runs or Runs()
        self._agent = agent
        joins = settings.policy == "block"
        self._settings = msgspec.structs.replace(settings, policy="coalesce") if joins else settings
        self._encoder = A2AToolsEncoder if tell_tools else A2AEncoder
        self._telling: dict[str, asyncio.Future[None]] = {}

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        """Tell the run to the task, up to its end."""
        try:
            asked = read_request(context)
            run = begin(self.runs, self._agent, asked, self._settings)
        except Refusal as refusal:
            kind = InvalidParamsError if refusal.status == 400 else InternalError
            raise kind(message=refusal.message) from None
        told = self._telling[run.run_id] = asyncio.get_running_loop().create_future()
        try:
            streams = context.call_context.state.get("method") in _STREAMS
            async for update in self._updates(run, whole=not streams):
                if isinstance(update, pb.Task):
                    if context.current_task is not None:
                        continue  # that is known
                    update.history.append(context.message)
                await event_queue.enqueue_event(update)
        finally:
            del self._telling[run.run_id]
            told.set_result(None)
            if not run.finished.done():  # nobody hears the rest
                run.channel.abandon()
                run.stop("cancelled")
                await run.gone()

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        """Stop the run; the task says so itself, unless it has none, or one that does not stop."""
        told = self._telling.get(context.task_id or "")
        if told is not None:
            self.runs.stop(context.task_id or "")
            await asyncio.wait({told}, timeout=_CANCEL_S)
        if told is None or not told.done():
            task = TaskUpdater(event_queue, context.task_id or "", context.context_id or "")
            await task.cancel()

    async def _updates(self, run: Run, *, whole: bool) -> AsyncIterator[Any]:
        ids = run.context
        encoder = self._encoder(
            Envelope(run_id=ids.run_id, thread_id=ids.thread_id, message_id=ids.message_id)
        )
        events = _joined(run, encoder) if whole else run.channel
        async for event in events:
            for frame in encoder.encode(event):
                told = ParseDict(_clean(frame.json()), pb.StreamResponse())
                update = getattr(told, told.WhichOneof("payload"))
                if isinstance(update, pb.TaskStatusUpdateEvent):
                    update.status.timestamp.GetCurrentTime()
                yield update


def _clean(value: Any) -> Any:
    """The same without halves of characters, which protobuf does not hold."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, dict):
        return {clean_text(key): _clean(one) for key, one in value.items()}
    return [_clean(one) for one in value] if isinstance(value, list) else value


async def _joined(run: Run, encoder: A2AEncoder) -> AsyncIterator[ev.Event]:
    """The events that are written, with the text of a message in one."""
    pieces: list[str] = []
    message_id: str | None = None
    async for event in run.channel:
        if pieces and (not isinstance(event, ev.TextDelta) or event.message_id != message_id):
            if type(event) not in encoder.table:
                continue
            yield ev.TextDelta(text="".join(pieces), message_id=message_id)
            pieces.clear()
        if isinstance(event, ev.TextDelta):
            pieces.append(event.text)
            message_id = event.message_id
        else:
            yield event


# --- what is asked -----------------------------------------------------------------------------


def read_request(context: RequestContext) -> RunContext:
    """What the agent is given for a message. Raises Refusal (400) for an id that is none.

    `messages` are those of the task, and this one; what the agent answered before is in its
    artifacts, and belongs into the memory of the agent's thread.
    """
    message, task = context.message, context.current_task
    assert message is not None  # the SDK asks for none without
    earlier = [one for one in task.history if one.message_id != message.message_id] if task else []
    waits = task is not None and task.status.state in INTERRUPTED_TASK_STATES
    caller = context.call_context.state.get(_CALLER)
    return RunContext(
        run_id=checked_id(context.task_id),
        thread_id=checked_id(context.context_id),
        message_id=new_id(),
        input=MessageToDict(message),
        messages=[_message(one) for one in (*earlier, message)],
        user=caller,
        resume=_content(message) if waits else None,
        headers=context.call_context.state.get("headers", {}),
    )


def _message(message: Any) -> dict[str, Any]:
    role = "user" if message.role == pb.ROLE_USER else "assistant"
    return {"role": role, "content": _content(message)}


def _content(message: Any) -> str | list[Any]:
    """The text, or all parts where there are others."""
    if all(part.HasField("text") for part in message.parts):
        return "\n".join(part.text for part in message.parts)
    return [MessageToDict(part) for part in message.parts]


# --- who asks ----------------------------------------------------------------------------------


class _Doorkeeper:
    """Lets requests in to the SDK, and tells it who asks."""

    def __init__(self, app: ASGIApp, door: Door, runs: Runs) -> None:
        self._app = app
        self._door = door
        self._runs = runs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            asked, user = await self._door.enter(scope, receive)
            if self._runs.is_draining:
                raise retry_later(503, "draining", "The server is shutting down.", 1.0)
        except Refusal as refusal:
            await send_refusal(refusal, scope, send)
            return
        except Disconnected:
            return
        body: Message | None = {
            "type": "http.request",
            "body": msgspec.json.encode(asked.body),
            "more_body": False,
        }

        async def again() -> Message:
            nonlocal body
            message, body = body, None
            return await receive() if message is None else message

        await self._app({**scope, _CALLER: user}, again, send)


class _Caller(A2AUser):
    """A user of ours to the SDK, whose tasks belong to names."""

    def __init__(self, user: User) -> None:
        self._name = json.dumps([user.tenant, user.id])

    @property
    def is_authenticated(self) -> bool:
        return True

    @property
    def user_name(self) -> str:
        return self._name


class _Callers(ServerCallContextBuilder):
    def build(self, request: Any) -> ServerCallContext:
        user = request.scope.get(_CALLER)
        headers = without_secrets(dict(request.headers))
        return ServerCallContext(
            user=UnauthenticatedUser() if user is None else _Caller(user),
            state={"headers": headers, _CALLER: user},
        )


# --- the tasks, and the routes -----------------------------------------------------------------


class RecentTasks(InMemoryTaskStore):
    """The tasks that changed last, within bounds of number and size; older ones are forgotten."""

    def __init__(self, max_tasks: int = MAX_TASKS, max_bytes: int = MAX_TASKS_BYTES) -> None:
        super().__init__()
        self._max_tasks, self._max_bytes = max_tasks, max_bytes
        self._bytes = 0
        self._known: dict[tuple[str, str], tuple[int, ServerCallContext]] = {}

    async def save(self, task: Any, context: ServerCallContext) -> None:
        """Keep it, instead of the oldest where there is no room."""
        await super().save(task, context)
        key, size = (resolve_user_scope(context), task.id), task.ByteSize()
        self._bytes += size - self._known.pop(key, (0, None))[0]
        self._known[key] = (size, ServerCallContext(user=context.user))
        while len(self._known) > 1 and (
            len(self._known) > self._max_tasks or self._bytes > self._max_bytes
        ):
            (_, oldest_id), (_, owner) = next(iter(self._known.items()))
            await self.delete(oldest_id, owner)

    async def delete(self, task_id: str, context: ServerCallContext) -> None:
        """Forget it."""
        self._bytes -= self._known.pop((resolve_user_scope(context), task_id), (0, None))[0]
        await super().delete(task_id, context)


class A2ARoutes:
    """The routes of one agent, and `close`, which ends what the SDK still has under way."""

    def __init__(
        self,
        executor: A2AExecutor,
        card: pb.AgentCard,
        path: str,
        *,
        door: Door = Door(),  # noqa: B008  immutable
        task_store: TaskStore | None = None,
    ) -> None:
        self._handler = DefaultRequestHandler(
            agent_executor=executor,
            task_store=task_store or RecentTasks(),
            agent_card=card,
            interrupted_task_timeout=_FORGET_WAITING_S,
        )
        [rpc] = create_jsonrpc_routes(
            self._handler,
            path,
            context_builder=_Callers(),
            enable_v0_3_compat=True,
            shutdown_grace_period=executor.runs.drain_timeout_s,
        )
        doorkeeper = Middleware(_Doorkeeper, door=door, runs=executor.runs)
        self.routes: list[BaseRoute] = [
            *create_agent_card_routes(card),
            Route(path, rpc.endpoint, methods=["POST"], middleware=[doorkeeper]),
        ]

    async def close(self) -> None:
        """To be called after the runs were drained."""
        await self._handler.aclose()
