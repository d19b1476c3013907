"""AG-UI as an app: its requests read with the official models, its runs answered and resumed.

    app = AgUiApp(agent)        # POST /agui/v1/runs, as `HttpAgent` of @ag-ui/client sends it

Rules that hold here:

* A request is a `RunAgentInput`, or refused with 422 and the names of the fields that are not
  right. What the agent is given has the names of the wire (`parentRunId`), however they came.
* An agent that needs an answer ends its run with `RunInterrupted`. The answer begins the next run
  of the thread: `run.resume` is the list of `{"interruptId", "status", "payload"}`, where the id is
  that of the tool call in question, else `RUN_ID-interrupt`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streamtrace.core.errors import MissingExtra, Refusal
from streamtrace.serve.asked import context_of
from streamtrace.serve.auth import Auth, User
from streamtrace.serve.context import Agent, RunContext
from streamtrace.serve.response import Delivery, Receive, Scope, Send
from streamtrace.serve.router import AGUI_PATH, AgentRouter
from streamtrace.serve.run import Settings
from streamtrace.serve.runs import Runs

try:
    from ag_ui.core import RunAgentInput
    from pydantic import ValidationError
except ModuleNotFoundError as error:
    raise MissingExtra(error.name or "ag-ui-protocol", "agui") from None

_NAMES = {field.alias or name for name, field in RunAgentInput.model_fields.items()}


class AgUiApp:
    """An agent behind AG-UI, as an ASGI app. `routes` go into an app of yours; then call
    `runs.drain()` when it shuts down.

    Other paths and vocabularies beside it: `AgentRouter().agui(agent)`.
    """

    def __init__(
        self,
        agent: Agent,
        route_path: str = AGUI_PATH,
        *,
        auth: Auth | None = None,
        settings: Settings = Settings(),  # noqa: B008  immutable
        delivery: Delivery = Delivery(),  # noqa: B008  immutable
        runs: Runs | None = None,
    ) -> None:
        router = AgentRouter(auth=auth, settings=settings, delivery=delivery, runs=runs)
        self.routes = router.agui(agent, route_path).routes
        self.runs = router.runs
        self._app = router.app()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await self._app(scope, receive, send)


def read_run_input(
    asked: Any,
    *,
    headers: Mapping[str, str],
    path_params: Mapping[str, Any],
    user: User | None,
) -> RunContext:
    """What the agent is given for this `RunAgentInput`. Raises Refusal: 422, 400 for a bad id."""
    try:
        run_input = RunAgentInput.model_validate(asked)
    except ValidationError as error:
        wrong = {one["loc"][0] for one in error.errors() if one["loc"]}
        names = ", ".join(sorted(_NAMES & wrong)) or "it must be an object"
        raise Refusal(
            422, "invalid_run_input", f"The body is not a RunAgentInput of AG-UI: {names}."
        ) from None
    told = run_input.model_dump(mode="json", by_alias=True)
    return context_of(told, headers=headers, path_params=path_params, user=user)
