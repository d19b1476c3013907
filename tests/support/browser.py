"""Pages in a real browser, one step at a time, so that a test can do something between two steps.

async with browser() as chromium:
    page = await chromium.open(url)
    await page.press("#send")
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from support.clients import CLIENTS, NODE

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
STEP_S = 25


class Browser:
    """One browser; its pages share a network."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def ask(self, *what: Any) -> Any:
        """As `tests/clients/pages.mjs` understands it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(what).encode() + b"\n")
        async with asyncio.timeout(STEP_S):
            line = await self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": "the browser has gone"}
        assert "error" not in answer, f"{what}: {answer['error']}"
        return answer["is"]

    async def open(self, url: str) -> Page:
        return Page(self, await self.ask("open", url))

    async def offline(self, is_offline: bool) -> None:
        """Whether its network is off."""
        await self.ask("offline", is_offline)


@dataclass(frozen=True)
class Page:
    browser: Browser
    number: int

    async def ask(self, what: str, *arguments: Any) -> Any:
        return await self.browser.ask(what, self.number, *arguments)

    async def url(self) -> str:
        url: str = await self.ask("url")
        return url

    async def type(self, selector: str, text: str) -> None:
        await self.ask("type", selector, text)

    async def press(self, selector: str) -> None:
        await self.ask("press", selector)

    async def texts(self, selector: str) -> list[str]:
        texts: list[str] = await self.ask("texts", selector)
        return texts

    async def evaluate(self, code: str) -> Any:
        return await self.ask("evaluate", code)

    async def until(self, code: str) -> None:
        """Wait until the code is true in the page."""
        await self.ask("until", code)


@asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    """A browser of its own, which is closed when the block ends."""
    assert CHROMIUM is not None
    process = await asyncio.create_subprocess_exec(
        NODE,
        CLIENTS / "pages.mjs",
        CHROMIUM,
        limit=2**20,
        cwd=CLIENTS,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Browser(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), STEP_S)
        except TimeoutError:
            process.kill()
            await process.wait()
