"""Bad bodies are refused with a clear 4xx, and nothing of the server's inside."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.routing import Route
from support.asgi import Server, http_scope
from support.live import live
from support.raw_http import ask, request

from streamtrace.core.errors import Disconnected, Refusal
from streamtrace.serve.answers import send_refusal
from streamtrace.serve.body import MAX_DEPTH, checked_id, read_json, read_object

JSON = [(b"content-type", b"application/json")]
MAX_BYTES = 2000


def chunks(*pieces: bytes) -> list[dict[str, Any]]:
    last = len(pieces) - 1
    return [
        {"type": "http.request", "body": piece, "more_body": number < last}
        for number, piece in enumerate(pieces)
    ]


async def read(body: bytes, headers: Any = JSON, **limits: Any) -> Any:
    return await read_json(Server(incoming=chunks(body)).receive, headers, **limits)


async def refused(reading: Any) -> tuple[int, str]:
    with pytest.raises(Refusal) as caught:
        await reading
    return caught.value.status, caught.value.code


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(value=json_values, data=st.data())
def test_what_was_written_is_read_however_it_was_cut(value: Any, data: st.DataObject) -> None:
    body = json.dumps(value, ensure_ascii=False).encode("utf-8")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=5)))
    pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    read = read_json(Server(incoming=chunks(*pieces)).receive, JSON)
    assert asyncio.run(read) == value


@given(body=st.binary(max_size=60))
def test_any_bytes_are_a_value_or_a_refusal(body: bytes) -> None:
    with contextlib.suppress(Refusal):
        json.dumps(asyncio.run(read(body)))


MALFORMED = {
    "empty": b"",
    "spaces": b" \n",
    "cut": b'{"message": "hel',
    "trailing": b"{} {}",
    "single quotes": b"{'a': 1}",
    "NaN": b'{"a": NaN}',
    "infinite": b'{"a": 1e999}',
    "endless integer": b"1" * 5000,
    "not UTF-8": b'{"a": "\xff"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf{}",
    "control character": b'"\x00"',
    "lone surrogate": b'"\\ud83d"',
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
async def test_malformed_json(body: bytes) -> None:
    assert await refused(read(body)) == (400, "malformed_json")


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
async def test_the_depth_is_bounded(opening: bytes, closing: bytes) -> None:
    def nested(depth: int) -> bytes:
        return opening * depth + b"1" + closing * depth

    assert await read(nested(MAX_DEPTH)) is not None
    for depth in (MAX_DEPTH + 1, 500, 100_000):
        assert await refused(read(nested(depth))) == (400, "json_too_deep")
    assert await read(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH) is not None
    too_deep = b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1)
    assert await refused(read(too_deep)) == (400, "json_too_deep")


BY_HEADERS: dict[str, tuple[dict[str, str], int]] = {
    "none": ({}, 415),
    "form": ({"content-type": "application/x-www-form-urlencoded"}, 415),
    "plain text, which browsers send across origins": ({"content-type": "text/plain"}, 415),
    "json in the parameters only": ({"content-type": "text/plain; application/json"}, 415),
    "jsonish": ({"content-type": "application/jsonx"}, 415),
    "other charset": ({"content-type": "application/json; charset=utf-16"}, 415),
    "compressed": ({"content-type": "application/json", "content-encoding": "gzip"}, 415),
    "negative length": ({"content-type": "application/json", "content-length": "-1"}, 400),
    "length in words": ({"content-type": "application/json", "content-length": "ten"}, 400),
    "endless length": ({"content-type": "application/json", "content-length": "9" * 5000}, 400),
    "too long": ({"content-type": "application/json", "content-length": "2001"}, 413),
}


@pytest.mark.parametrize(("headers", "status"), BY_HEADERS.values(), ids=BY_HEADERS)
async def test_refused_by_its_headers_before_anything_is_read(
    headers: dict[str, str], status: int
) -> None:
    async def receive() -> Any:
        raise AssertionError("nothing is to be read")

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    assert (await refused(read_json(receive, raw, max_bytes=MAX_BYTES)))[0] == status


@pytest.mark.parametrize(
    "media_type",
    [
        "application/json",
        "Application/JSON",
        "application/json;charset=UTF-8",
        'application/json; charset="utf-8"',
        "application/vnd.api+json",
    ],
)
async def test_names_of_json(media_type: str) -> None:
    assert await read(b"[1]", [(b"Content-Type", media_type.encode())]) == [1]


async def test_a_body_that_outgrows_the_bound_is_not_read_on() -> None:
    server = Server(incoming=chunks(*[b" " * 1000] * 50))
    assert await refused(read_json(server.receive, JSON, max_bytes=MAX_BYTES)) == (
        413,
        "body_too_large",
    )
    assert len(server._incoming) == 47


async def test_exactly_the_bound_is_read() -> None:
    body = b'"' + b"x" * (MAX_BYTES - 2) + b'"'
    assert len(await read(body, max_bytes=MAX_BYTES)) == MAX_BYTES - 2
    assert (await refused(read(body + b" ", max_bytes=MAX_BYTES)))[0] == 413


async def test_a_body_that_never_ends_is_given_up() -> None:
    server = Server(incoming=[{"type": "http.request", "body": b"{", "more_body": True}])
    reading = read_json(server.receive, JSON, timeout_s=0.01)
    assert await refused(reading) == (408, "body_too_slow")


async def test_a_client_that_leaves_gets_no_answer() -> None:
    incoming = [
        {"type": "http.request", "body": b"{", "more_body": True},
        {"type": "http.disconnect"},
    ]
    with pytest.raises(Disconnected):
        await read_json(Server(incoming=incoming).receive, JSON)


@pytest.mark.parametrize("body", [b"[]", b'"text"', b"1", b"null", b"true"])
async def test_an_object_is_an_object(body: bytes) -> None:
    reading = read_object(Server(incoming=chunks(body)).receive, JSON)
    assert await refused(reading) == (400, "invalid_request")
    assert await read_object(Server(incoming=chunks(b'{"a": 1}')).receive, JSON) == {"a": 1}


BAD_IDS: dict[str, object] = {
    "empty": "",
    "number": 7,
    "none": None,
    "list": ["a"],
    "new line": "a\nb",
    "header injection": "a\r\nSet-Cookie: admin=1",
    "injection at the end": "a\r\n",
    "nul": "a\0b",
    "escape": "a\x1b[31m",
    "space": "a b",
    "line separator": "a\u2028b",
    "right to left": "a\u202eb",
    "long": "x" * 257,
}


@pytest.mark.parametrize("value", BAD_IDS.values(), ids=BAD_IDS)
async def test_an_id_that_could_not_stand_in_a_header(value: object) -> None:
    with pytest.raises(Refusal) as caught:
        checked_id(value)
    assert (caught.value.status, caught.value.code) == (400, "invalid_id")


@pytest.mark.parametrize("value", ["a", "user:1/thread-2", "x" * 256, "b8f0…".encode().hex()])
async def test_an_id_is_given_back(value: str) -> None:
    assert checked_id(value) == value


# Over a real server: what a client sees.


async def echo(scope: Any, receive: Any, send: Any) -> None:
    try:
        value = await read_object(receive, scope["headers"], max_bytes=MAX_BYTES, timeout_s=0.5)
        thread = checked_id(value.get("thread"))
    except Refusal as refusal:
        await send_refusal(refusal, scope, send)
        return
    await send_refusal(Refusal(200, "ok", "read", {"X-Thread": thread}), scope, send)


class App:
    """An instance, which Starlette takes for an ASGI app."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await echo(scope, receive, send)


TYPED = {"Content-Type": "application/json"}
CHUNKED = {**TYPED, "Transfer-Encoding": "chunked"}
BIG_CHUNK = b"%x\r\n%s\r\n" % (3000, b" " * 3000)

OVER_THE_WIRE: dict[str, tuple[bytes, int, str]] = {
    "malformed": (request("/", b'{"a":', TYPED), 400, "malformed_json"),
    "not UTF-8": (request("/", b'{"a": "\xff"}', TYPED), 400, "malformed_json"),
    "wrong type": (request("/", b"[1, 2]", TYPED), 400, "invalid_request"),
    "wrong type of id": (request("/", b'{"thread": {"a": 1}}', TYPED), 400, "invalid_id"),
    "header injection": (
        request("/", json.dumps({"thread": "a\r\nSet-Cookie: a=1"}).encode(), TYPED),
        400,
        "invalid_id",
    ),
    "no JSON": (request("/", b"a=1"), 415, "unsupported_media_type"),
    "declared too large": (request("/", b" " * 2001, TYPED), 413, "body_too_large"),
    "declared too large, and never sent": (
        request("/", b"", {**TYPED, "Content-Length": "999999999999"}),
        413,
        "body_too_large",
    ),
    "too large, not declared": (request("/", BIG_CHUNK, CHUNKED), 413, "body_too_large"),
    "declared, and never sent": (
        request("/", b"", {**TYPED, "Content-Length": "100"}),
        408,
        "body_too_slow",
    ),
    "begun, and never ended": (request("/", b"5\r\n{    \r\n", CHUNKED), 408, "body_too_slow"),
    "deep": (request("/", b'{"a":' * 300 + b"1" + b"}" * 300, TYPED), 400, "json_too_deep"),
}


@pytest.mark.parametrize(("sent", "status", "code"), OVER_THE_WIRE.values(), ids=OVER_THE_WIRE)
async def test_a_real_server_answers_with_a_clear_4xx(sent: bytes, status: int, code: str) -> None:
    async with live(Starlette(routes=[Route("/", App())])) as url:
        answer = await ask(url, sent)
    assert (answer.status, answer.json["error"]["type"]) == (status, code)
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json.keys() == {"error"}
    assert answer.json["error"].keys() == {"type", "message"}
    assert "set-cookie" not in answer.headers
    for inside in (b"Traceback", b"msgspec", b"byte ", b".py", b"starlette", b"Set-Cookie"):
        assert inside not in answer.body


async def test_a_real_server_reads_a_good_body() -> None:
    async with live(Starlette(routes=[Route("/", App())])) as url:
        answer = await ask(url, request("/", b'{"thread": "t-1"}', TYPED))
    assert (answer.status, answer.headers["x-thread"]) == (200, "t-1")


# The answer itself.


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: x=1", "a\nb", "", " a", "é", "a\0"])
async def test_a_refusal_with_a_header_that_ends_its_line_is_not_sent(value: str) -> None:
    server = Server()
    with pytest.raises(ValueError, match="visible ASCII"):
        await send_refusal(Refusal(400, "x", "x", {"X-Id": value}), http_scope(), server.send)
    assert server.sent == []


async def test_a_websocket_is_refused_by_an_answer_where_the_server_can_send_one() -> None:
    server = Server()
    scope = http_scope(type="websocket", extensions={"websocket.http.response": {}})
    await send_refusal(Refusal(401, "unauthenticated", "Who?"), scope, server.send)
    start, body = server.sent
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 401)
    assert body["type"] == "websocket.http.response.body"


@pytest.mark.parametrize(("headers", "close"), [({}, 1008), ({"Retry-After": "1"}, 1013)])
async def test_else_by_a_close_code(headers: dict[str, str], close: int) -> None:
    server = Server()
    refusal = Refusal(429, "rate_limited", "Later.", headers)
    await send_refusal(refusal, http_scope(type="websocket"), server.send)
    assert server.sent == [{"type": "websocket.close", "code": close, "reason": "rate_limited"}]
