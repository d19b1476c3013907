"""Scripts of many runs, sent to Redis together.

Rules that hold here:

* One pipeline is under way at a time. What is asked meanwhile goes into the next, so that it grows
  with the load, and nobody waits for a timer: together, an append costs a third, here and there.
* A pipeline is no transaction: each script stands for itself, and in a cluster goes to its own
  node.
* Whoever asked and left, what was asked is done.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from streamtrace.core.errors import LogUnavailable
from streamtrace.logs import WARNINGS
from streamtrace.serve.redis_stores import NO_ANSWER, NO_SCRIPT, Client

if TYPE_CHECKING:
    from redis.commands.core import AsyncScript

MAX_SCRIPTS = 128
"""Of a pipeline: a server does one after the other, and its other clients wait."""


class _Asked(NamedTuple):
    script: AsyncScript
    keys: Sequence[str]
    said: Sequence[Any]
    answer: asyncio.Future[Any]


class Together:
    """Belongs to one event loop at a time."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._waiting: deque[_Asked] = deque()
        self._task: asyncio.Task[None] | None = None

    async def ask(self, script: AsyncScript, keys: Sequence[str], said: Sequence[Any]) -> Any:
        """The answer of a script. Raises LogUnavailable."""
        asked = _Asked(script, keys, said, asyncio.get_running_loop().create_future())
        self._waiting.append(asked)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._send())
        answer = await asked.answer
        if isinstance(answer, NO_SCRIPT):  # a server that is new to it
            return await self._client.ask(script(keys, said))
        if isinstance(answer, Exception):
            raise LogUnavailable("Redis did not answer")
        return answer

    async def aclose(self) -> None:
        """Wait for the answers that are to come."""
        if self._task is not None and not self._task.done():
            await asyncio.wait([self._task])

    async def _send(self) -> None:
        while self._waiting:
            count = min(MAX_SCRIPTS, len(self._waiting))
            batch = [self._waiting.popleft() for _ in range(count)]
            answers: Sequence[Any]
            try:
                answers = await self._client.ask(self._sent(batch))
            except LogUnavailable as error:
                answers = [error] * len(batch)
            for asked, answer in zip(batch, answers, strict=True):
                if isinstance(answer, NO_ANSWER) and not isinstance(answer, NO_SCRIPT):
                    WARNINGS.warn("redis", f"Redis refused a script: {type(answer).__name__}")
                if not asked.answer.done():
                    asked.answer.set_result(answer)

    async def _sent(self, batch: Sequence[_Asked]) -> Sequence[Any]:
        if len(batch) == 1:  # for which a pipeline is dearer than the script
            return [await batch[0].script(batch[0].keys, batch[0].said)]
        pipeline = self._client.redis.pipeline(transaction=False)
        for asked in batch:
            pipeline.execute_command(
                "EVALSHA", asked.script.sha, len(asked.keys), *asked.keys, *asked.said
            )
        answers: Sequence[Any] = await pipeline.execute(raise_on_error=False)
        return answers
