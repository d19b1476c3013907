"""The runs behind one prefix, and the requests that are made of them.

Rules that hold here:

* Headers are asked for anew before each request, and once more after a 401.
* Whatever is not served is raised as `RunRefused`, with what the server said of it.
"""

from __future__ import annotations

import inspect
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Self
from urllib.parse import urlencode

import msgspec

from streamtrace.client.backoff import retry_after_s
from streamtrace.client.stream import RunStream, Waiting, events_of, quoted
from streamtrace.core.errors import ConfigError, MissingExtra, RunRefused
from streamtrace.core.jsonio import as_object, load_json

try:
    import httpx2
except ModuleNotFoundError as error:
    raise MissingExtra(error.name or "httpx2", "client") from None

Headers = Mapping[str, str]
AskedHeaders = Callable[[bool], Headers | Awaitable[Headers]]

IDLE_TIMEOUT_S = 45.0
MAX_ATTEMPTS = 10
_LIMITS = httpx2.Limits(max_connections=None, max_keepalive_connections=20)  # a stream keeps one
_UNAUTHORIZED = 401
_RUN_KEYS = ("run_id", "runId")


class RunClient:
    """Starts, follows and stops the runs that are served behind a prefix.

    prefix           what `AgentRouter.resumable` has, as a URL, such as `https://example.org/agents`
    headers          sent with every request, such as `authorization`; or a function, async or not,
                     that gives them: called for each request, with `False`, and with `True` after a
                     401, which is then tried once more
    http             a client of yours, which you close; else one of its own, closed by `aclose`
    idle_timeout_s   a connection on which no byte comes for so long, heartbeats included, is cut
                     and resumed
    max_attempts     in a row that bring nothing new, then `ConnectionLost`

    Raises ConfigError.
    """

    def __init__(
        self,
        prefix: str,
        *,
        headers: Headers | AskedHeaders | None = None,
        http: httpx2.AsyncClient | None = None,
        idle_timeout_s: float = IDLE_TIMEOUT_S,
        max_attempts: int = MAX_ATTEMPTS,
    ) -> None:
        if not prefix.startswith(("http://", "https://")):
            raise ConfigError(f"prefix must be a URL with http or https, got {prefix!r}")
        for name, value in (("idle_timeout_s", idle_timeout_s), ("max_attempts", max_attempts)):
            if value <= 0:
                raise ConfigError(f"{name} must be over 0, got {value!r}")
        self.max_attempts = max_attempts
        self._prefix = prefix.rstrip("/")
        self._headers = headers or {}
        self._timeout = httpx2.Timeout(idle_timeout_s)
        self._own = httpx2.AsyncClient(limits=_LIMITS) if http is None else None
        self._http = http or self._own

    def start(
        self,
        run_input: Mapping[str, Any],
        *,
        query: Mapping[str, str] | None = None,
        on_waiting: Callable[[Waiting], None] | None = None,
    ) -> RunStream:
        """Start a run, when the block of `async with` is entered; raises as `RunStream` says.

        `run_input` is the agent's input. Without a `run_id` or `runId` it gets one, so that a start
        whose answer was lost is not begun twice. `query`: what the server may be asked besides,
        `dialect` and `granularity`. `on_waiting` is told of every pause between two
        connections.
        """
        given = next((run_input[key] for key in _RUN_KEYS if key in run_input), None)
        run_id = given or secrets.token_hex(16)
        body = msgspec.json.encode({**run_input, **({} if given else {"run_id": run_id})})
        path = f"/runs?{urlencode(query)}" if query else "/runs"
        return RunStream(self, path, run_id, body=body, on_waiting=on_waiting)

    def follow(
        self,
        run_id: str | None = None,
        *,
        thread_id: str | None = None,
        after: int = 0,
        on_waiting: Callable[[Waiting], None] | None = None,
    ) -> RunStream:
        """Follow a run from behind number `after`, by default from its beginning; or the run that a
        thread began last. Where there is none, or nothing more, the stream is empty.

        Raises ConfigError unless exactly one of `run_id` and `thread_id` is given, and for `after`
        with a thread: numbers are those of a run.
        """
        if (run_id is None) == (thread_id is None):
            raise ConfigError(f"give run_id or thread_id, got {run_id!r} and {thread_id!r}")
        if thread_id is not None and after:
            raise ConfigError(f"after={after} is of a run, not of a thread: give run_id with it")
        path = f"/threads/{quoted(thread_id)}/events" if thread_id is not None else None
        return RunStream(
            self, path or events_of(run_id or ""), run_id, after=after, on_waiting=on_waiting
        )

    async def stop(self, run_id: str) -> bool:
        """Ask that a run stops, from wherever it was started; `False` if it was over or stopped.

        Raises RunRefused, and what the HTTP client raises: to ask again does no harm.
        """
        return (await self._json("POST", f"/runs/{quoted(run_id)}/stop")).get("stopped") is True

    async def state(self, run_id: str) -> dict[str, Any]:
        """How a run stands, as the server tells it. Raises as `stop`."""
        return await self._json("GET", f"/runs/{quoted(run_id)}")

    async def ask(
        self, method: str, path: str, headers: Headers, body: bytes | None = None
    ) -> httpx2.Response:
        """One request; the body of its answer is not read yet. Raises RunRefused."""
        answer = await self._send(method, path, headers, body, refused=False)
        if answer.status_code == _UNAUTHORIZED and callable(self._headers):
            await answer.aclose()
            answer = await self._send(method, path, headers, body, refused=True)
        if answer.is_success:
            return answer
        try:
            told = as_object(as_object(load_json(await answer.aread())).get("error"))
        finally:
            await answer.aclose()
        raise RunRefused(
            answer.status_code,
            str(told.get("type", "refused")),
            str(told.get("message", "the server does not say why")),
            retry_after_s(answer.headers.get("retry-after")),
        )

    async def aclose(self) -> None:
        """Close the connections, where they are its own."""
        if self._own is not None:
            await self._own.aclose()

    async def __aenter__(self) -> Self:
        """Itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it."""
        await self.aclose()

    async def _send(
        self, method: str, path: str, headers: Headers, body: bytes | None, *, refused: bool
    ) -> httpx2.Response:
        own = self._headers(refused) if callable(self._headers) else self._headers
        if inspect.isawaitable(own):
            own = await own
        assert self._http is not None
        request = self._http.build_request(
            method,
            self._prefix + path,
            headers={**own, **headers},
            content=body,
            timeout=self._timeout,
        )
        return await self._http.send(request, stream=True)

    async def _json(self, method: str, path: str) -> dict[str, Any]:
        answer = await self.ask(method, path, {})
        try:
            return as_object(load_json(await answer.aread()))
        finally:
            await answer.aclose()
