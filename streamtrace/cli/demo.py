"""`streamtrace demo`: a chat page, an agent that streams its answers, and their traces.

    GET  /                    the page
    POST /chat                {"message", "thread_id"?, "dialect"?}: the scripted agent, streamed
    GET  /recordings          the recorded streams there are
    POST /replay/{recording}  one of them, byte for byte, at the pace of an agent
    GET  /metrics             Prometheus

Everything is observed by the middleware that users put around their own app, and nothing else. The
first run is asked for by the demo itself, so that there is one to see at once.
The terminal shows content, since whoever started the demo reads it; exporters keep their setting.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import secrets
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry
from rich.console import Console
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from streamtrace import StreamTraceMiddleware
from streamtrace.cli.demo_agent import Model, Pause, script
from streamtrace.cli.recordings import RECORDINGS, messages
from streamtrace.cli.serving import listen, serve
from streamtrace.cli.terminal import TerminalSink, console
from streamtrace.core.events import TERMINAL, Heartbeat
from streamtrace.core.frames import Frame, encode_frame
from streamtrace.core.sink import Sink
from streamtrace.dialects.base import Envelope
from streamtrace.dialects.detect import by_name
from streamtrace.sinks.env import sinks_from_env
from streamtrace.sinks.prometheus import PrometheusSink, metrics_app

MAX_BODY_BYTES = 64 * 1024
MAX_MESSAGE_BYTES = 8 * 1024
MAX_THREAD_ID_CHARS = 128
FRAME_S = 0.03
MAX_REPLAY_S = 15.0

_GPT = Model("gpt-5-mini", "openai")
DIALECTS = {
    "cognis": _GPT,
    "agentflow": _GPT,
    "generic": _GPT,
    "openai-chat": _GPT,
    "openai-responses": _GPT,
    "anthropic": Model("claude-sonnet-4-5", "anthropic"),
    "ag-ui": _GPT,
    "vercel-ui": _GPT,
}
"""What the agent speaks, and the model it then names; the first is spoken unless asked."""

_DIALECT = next(iter(DIALECTS))
_STATIC = Path(__file__).parent / "static"
_FIRST = {"message": "Weather in Tokyo?", "thread_id": "first-run", "dialect": "ag-ui"}
_STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


def demo(host: str, port: int, for_s: float | None) -> int:
    """Serve the demo until it is interrupted, or for so many seconds."""
    taken, url = listen(host, port)
    target = console()
    registry = CollectorRegistry()
    elsewhere = [sink for sink in sinks_from_env() if not isinstance(sink, PrometheusSink)]
    sinks: list[Sink] = [
        TerminalSink(target, content="full"),
        *elsewhere,
        PrometheusSink(registry=registry),
    ]
    app = build_app(metrics_app(registry))
    _greet(target, url, [sink.name for sink in elsewhere])
    threading.Thread(target=_first_run, args=taken.getsockname()[:2], daemon=True).start()
    serve(StreamTraceMiddleware(app, sinks=sinks), taken, for_s)
    return 0


def build_app(metrics: Any) -> Starlette:
    """The demo without its middleware."""
    return Starlette(
        routes=[
            Route("/", _page),
            Route("/chat", _chat, methods=["POST"]),
            Route("/recordings", _recordings),
            Route("/replay/{recording}", _replay, methods=["POST"]),
            Mount("/static", StaticFiles(directory=_STATIC)),
            Route("/metrics", metrics),
        ]
    )


def _greet(target: Console, url: str, elsewhere: list[str]) -> None:
    target.print(f"streamtrace demo: open {url} (Ctrl+C stops it)", style="bold")
    target.print("A first run is on its way. To make more without a browser:")
    ask = f"curl -N {url}/chat -H 'content-type: application/json' -d"
    target.print(f'  {ask} \'{{"message": "weather in Tokyo"}}\'')
    target.print(f'  {ask} \'{{"message": "fail", "dialect": "anthropic"}}\'')
    target.print(f"  curl -s {url}/metrics | grep ^streamtrace")
    target.print(f"Runs are drawn here; they go to: {', '.join(['prometheus', *elsewhere])}")


def _first_run(host: str, port: int) -> None:
    """Ask as a client would, and read to the end. The socket listens already: it can wait."""
    connection = http.client.HTTPConnection(host, port)
    with contextlib.suppress(OSError, http.client.HTTPException):  # the demo was stopped
        connection.request("POST", "/chat", json.dumps(_FIRST))
        connection.getresponse().read()
    connection.close()


class _Chat(msgspec.Struct):
    message: str
    thread_id: str | None = None
    dialect: str | None = None


async def _page(request: Request) -> Response:
    return FileResponse(_STATIC / "index.html")


async def _chat(request: Request) -> Response:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY_BYTES:
            return _refused(413, f"the body is over {MAX_BODY_BYTES} bytes")
    try:
        asked = msgspec.json.decode(bytes(body), type=_Chat)
    except msgspec.ValidationError as error:
        return _refused(422, str(error))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return _refused(400, f"the body is no JSON: {error}")
    wrong = _wrong(asked)
    if wrong is not None:
        return _refused(422, wrong)
    dialect = asked.dialect or _DIALECT
    return _stream(_answer(asked, dialect), by_name(dialect).response_headers)


def _wrong(asked: _Chat) -> str | None:
    if not asked.message.strip():
        return "message is empty"
    if len(asked.message.encode()) > MAX_MESSAGE_BYTES:
        return f"message is over {MAX_MESSAGE_BYTES} bytes"
    if len(asked.thread_id or "") > MAX_THREAD_ID_CHARS:
        return f"thread_id is over {MAX_THREAD_ID_CHARS} characters"
    if (asked.dialect or _DIALECT) not in DIALECTS:
        return f"dialect is not known; there are {', '.join(DIALECTS)}"
    return None


async def _answer(asked: _Chat, dialect: str) -> AsyncIterator[bytes]:
    envelope = Envelope(
        run_id=secrets.token_hex(4),
        thread_id=asked.thread_id or "demo",
        model=DIALECTS[dialect].name,
        created_s=int(time.time()),
    )
    for piece in written(dialect, asked.message, envelope):
        if isinstance(piece, Pause):
            await asyncio.sleep(piece.seconds)
        else:
            yield piece


def written(dialect: str, message: str, envelope: Envelope) -> Iterator[bytes | Pause]:
    """What the agent does about `message`, on the wire. A run that is cut just stops."""
    encoder = by_name(dialect).encoder(envelope)
    ended = False
    for beat in script(
        message,
        run_id=envelope.run_id,
        thread_id=envelope.thread_id,
        model=DIALECTS[dialect],
    ):
        if isinstance(beat, Pause):
            yield beat
            continue
        ended = isinstance(beat, TERMINAL)
        frames = list(encoder.encode(beat))
        if isinstance(beat, Heartbeat) and not frames:
            frames = [Frame(comment=b"keep-alive")]
        if frames:
            yield b"".join(map(encode_frame, frames))
    if ended:
        yield from map(encode_frame, encoder.close())


async def _recordings(request: Request) -> Response:
    return JSONResponse([one.described() for one in RECORDINGS.values()])


async def _replay(request: Request) -> Response:
    recording = RECORDINGS.get(request.path_params["recording"])
    if recording is None:
        return _refused(404, f"no such recording; there are {', '.join(RECORDINGS)}")

    async def body() -> AsyncIterator[bytes]:
        pieces = messages(recording.body)
        for piece in pieces:
            await asyncio.sleep(min(FRAME_S, MAX_REPLAY_S / len(pieces)))
            yield piece

    return _stream(body())


def _stream(body: AsyncIterator[bytes], headers: Mapping[str, str] = _STREAM_HEADERS) -> Response:
    return StreamingResponse(
        body, media_type="text/event-stream", headers={**_STREAM_HEADERS, **headers}
    )


def _refused(status: int, message: str) -> Response:
    return JSONResponse({"error": message}, status_code=status)
