"""Bad input at every door, over real sockets, on each server: a clear 4xx, and nothing of the
server's inside."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from support.raw_http import request
from support.servers import SERVERS, Connection, Response, Server, get, serving
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

HERE = Path(__file__).parent
KEY = "st-0123456789abcdef"
SECRET = "0123456789abcdef0123456789abcdef"
CLAIMS = {"sub": "alice", "aud": "chat", "iss": "https://login.example", "exp": 2**33}
TYPED = {"Content-Type": "application/json"}
KNOWN = {**TYPED, "X-Api-Key": KEY}

INSIDE = (
    b"Traceback", b".py", b"File ", b"streamtrace", b"starlette", b"msgspec", b"pydantic",
    b"joserfc", b"Exception", b"0x", SECRET.encode(), KEY.encode(), b"X-Evil", b"evil",
)  # fmt: skip
"""What would tell of the server's inside, or give back what was sent."""

USER = {"id": "m", "role": "user", "content": "hi"}
A2A = {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "hi"}]}
GOOD: dict[str, Any] = {
    "/chat": {"messages": [USER]},
    "/threads/t-1": {"messages": [USER]},
    "/agui/v1/runs": {"threadId": "t", "runId": "r", "messages": [USER]},
    "/v1/graph/stream": {"messages": [USER], "config": {"thread_id": "t"}},
    "/v1/chat/completions": {"model": "agent", "messages": [USER], "stream": True},
    "/jsonrpc": {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "SendStreamingMessage",
        "params": {"message": A2A},
    },
}
"""Doors that start a run, with what they take."""
ALSO: dict[str, Any] = {"/v1/graph/stop": {"thread_id": "t"}, "/tickets": {"path": "/chat"}}
EVIL = "a\r\nX-Evil: 1"


def posted(path: str, body: Any, headers: dict[str, str] | None = None) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return request(path, data, {**KNOWN, **(headers or {})})


def token(secret: str = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    return jwt.encode({**CLAIMS, **claims}, secret, algorithm)


def bearer(credentials: str) -> dict[str, str]:
    return {**TYPED, "Authorization": f"Bearer {credentials}"}


STRANGERS = {
    "nobody": TYPED,
    "unknown key": {**TYPED, "X-Api-Key": "st-0123456789abcdee"},
    "expired": bearer(token(exp=int(time.time()) - 3600)),
    "forged": bearer(token(secret=SECRET[::-1])),
    "unsigned": bearer(jwt.encode(CLAIMS, None, "none")),
    "for others": bearer(token(aud="billing")),
    "from elsewhere": bearer(token(iss="https://evil.example")),
    "changed": bearer(token()[:-4] + "AAAA"),
    "no token": bearer("a.b.c"),
    "long": bearer("a" * 8000),
}
BODIES: dict[str, tuple[bytes, dict[str, str], int]] = {
    "malformed": (b'{"a":', {}, 400),
    "not UTF-8": (b'{"a":"\xff"}', {}, 400),
    "deep": (b'{"a":' * 300 + b"1" + b"}" * 300, {}, 400),
    "no JSON": (b"a=1", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
    "compressed": (b"{}", {"Content-Encoding": "gzip"}, 415),
    "oversized": (b"", {"Content-Length": "999999999"}, 413),
}
WRONG: dict[str, tuple[bytes, set[int]]] = {
    "ids in the body": (posted("/chat", {"run_id": EVIL}), {400}),
    "of a wrong type": (posted("/chat", {"thread_id": {"a": 1}}), {400}),
    "long id": (posted("/chat", {"thread_id": "t" * 5000}), {400}),
    "id in a header": (posted("/chat", {}, {"X-Thread-Id": "a b\tX-Evil: 1"}), {400}),
    "id in the path": (posted("/threads/a%0d%0aX-Evil:1", {}), {400, 404}),
    "id to stop": (posted("/chat/a%0d%0aX-Evil:1/stop", b""), {400, 404}),
    "unknown run": (posted("/chat/nobodys/stop", b""), {404}),
    "query": (request("/chat?run_id=a%0d%0aX-Evil:1", b"", KNOWN, "GET"), {400}),
    "dialect": (posted("/chat?dialect=%0d%0aX-Evil:1", {}), {400}),
    "granularity": (posted("/chat?granularity=evil", {}), {400}),
    "method": (request("/chat", b"", KNOWN, "DELETE"), {405}),
    "model": (posted("/v1/chat/completions", {**GOOD["/v1/chat/completions"], "model": "evil"}),
              {404}),
    "unknown model": (request("/v1/models/evil", b"", KNOWN, "GET"), {404}),
    "AG-UI": (posted("/agui/v1/runs", {"threadId": 1, "evil": "X-Evil"}), {422}),
    "AG-UI id": (posted("/agui/v1/runs", {**GOOD["/agui/v1/runs"], "runId": EVIL}), {400}),
    "graph": (posted("/v1/graph/stream", {"messages": "evil"}), {400}),
    "graph's thread": (posted("/v1/graph/stop", {"thread_id": EVIL}), {400}),
    "ticket's path": (posted("/tickets", {"path": EVIL}), {400}),
    "unknown ticket": (request(f"/chat?ticket={'A' * 43}", b"", {}, "GET"), {401}),
    "ticket": (request("/chat?ticket=%00%0d%0aX-Evil:1", b"", {}, "GET"), {401}),
    "A2A's method": (posted("/jsonrpc", {"jsonrpc": "2.0", "id": 1, "method": "evil"}), {200}),
    "A2A's task": (
        posted("/jsonrpc", {"jsonrpc": "2.0", "id": 1, "method": "GetTask",
                            "params": {"id": EVIL}}),
        {200},
    ),
}  # fmt: skip
"""JSON-RPC says in the body what is wrong."""


@pytest.fixture(scope="module", params=SERVERS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("server") / "server.log"
    with serving(request.param, "doors_app:app", HERE, log) as running:
        yield running
        assert "Traceback" not in running.log_text()
        assert SECRET not in running.log_text()


def ask(server: Server, sent: bytes) -> Response:
    with Connection(server.port, "", sent) as client:
        return client.read()


def started(server: Server) -> int:
    return int(get(server.port, "/started").body)


def check_refusal(answer: Response, statuses: set[int], name: str) -> None:
    """A clear answer: JSON with a code and a sentence, or, of JSON-RPC, its error."""
    assert answer.status in statuses, (name, answer)
    headers = dict(answer.headers)
    assert headers["content-type"].startswith("application/json"), (name, answer)
    assert "x-evil" not in headers, name
    error = json.loads(answer.body)["error"]
    assert isinstance(error["message"], str), name
    for inside in INSIDE:
        assert inside not in answer.body, (name, inside, answer.body)


def test_good_input_is_let_in(server: Server) -> None:
    """Else the tests below would prove nothing."""
    before = started(server)
    for path, body in GOOD.items():
        for credentials in ({}, {"Authorization": f"Bearer {token()}"}):
            headers = {**KNOWN, **credentials, "A2A-Version": "1.0"}
            if credentials:
                del headers["X-Api-Key"]
            answer = ask(server, request(path, json.dumps(body).encode(), headers))
            assert (answer.status, answer.complete) == (200, True), (path, answer)
    assert started(server) == before + 2 * len(GOOD)
    for path, body in ALSO.items():
        assert ask(server, posted(path, body)).status == 200


@pytest.mark.parametrize("stranger", STRANGERS)
def test_strangers_are_not_let_in(server: Server, stranger: str) -> None:
    before, answers = started(server), set()
    for path, body in {**GOOD, **ALSO}.items():
        sent = request(path, json.dumps(body).encode(), STRANGERS[stranger])
        answer = ask(server, sent)
        check_refusal(answer, {401}, path)
        assert "www-authenticate" in dict(answer.headers)
        answers.add(answer.body)
    assert len(answers) <= 2  # JSON-RPC may say it in its own words
    assert started(server) == before


@pytest.mark.parametrize("what", BODIES)
def test_bodies_that_are_none(server: Server, what: str) -> None:
    body, headers, status = BODIES[what]
    before = started(server)
    for path in (*GOOD, *ALSO):
        check_refusal(ask(server, posted(path, body, headers)), {status}, path)
    assert started(server) == before


def test_what_is_wrong_is_refused(server: Server) -> None:
    before = started(server)
    for name, (sent, statuses) in WRONG.items():
        check_refusal(ask(server, sent), statuses, name)
    assert started(server) == before


def test_a_ticket_lets_in_once(server: Server) -> None:
    before = started(server)
    ticket = json.loads(ask(server, posted("/tickets", {"path": "/chat"})).body)["ticket"]
    elsewhere = request(f"/threads/t?ticket={ticket}", b"{}", TYPED)
    first = json.loads(ask(server, posted("/tickets", {"path": "/chat"})).body)["ticket"]
    assert get(server.port, f"/chat?ticket={first}").complete
    check_refusal(get(server.port, f"/chat?ticket={first}"), {401}, "used")
    check_refusal(ask(server, elsewhere), {401}, "elsewhere")
    check_refusal(get(server.port, f"/chat?ticket={ticket}"), {401}, "tried elsewhere")
    assert started(server) == before + 1


@pytest.mark.parametrize("line", [
    b"X-Thread-Id: a\r\n X-Evil: 1", b"X-Thread-Id: a\x00b", b"X-Thread-Id : a b", b"X-Evil\x01: a",
    b"Content-Length: 1",
])  # fmt: skip
def test_what_is_no_http_is_refused_by_the_server(server: Server, line: bytes) -> None:
    """Each in its own way; nothing is started."""
    before = started(server)
    sent = posted("/chat", {}).replace(b"Host: test", b"Host: test\r\n" + line)
    try:
        answer = ask(server, sent)
    except ConnectionError:
        """It was closed without a word."""
    else:
        assert 400 <= answer.status < 500
        assert not any(inside in answer.body for inside in INSIDE)
    assert started(server) == before


# --- WebSockets --------------------------------------------------------------------------------


over_websockets = pytest.mark.parametrize(
    "server", [name for name in SERVERS if name != "granian"], indirect=True
)  # granian is started without them


def connecting(server: Server, query: str = "", **headers: str) -> Any:
    return connect(f"ws://127.0.0.1:{server.port}/ws{query}", additional_headers=headers)


@over_websockets
@pytest.mark.parametrize("stranger", STRANGERS)
def test_strangers_get_no_websocket(server: Server, stranger: str) -> None:
    headers = {name: value for name, value in STRANGERS[stranger].items() if name not in TYPED}
    with pytest.raises(InvalidStatus) as refused, connecting(server, **headers):
        """Never open."""
    assert refused.value.response.status_code == 401
    with pytest.raises(InvalidStatus), connecting(server, "?ticket=%0d%0aX-Evil:1"):
        """Never open."""


MESSAGES: dict[str, tuple[str, str]] = {
    "malformed": ('{"a":', "malformed_json"),
    "no object": ("[]", "malformed_json"),
    "deep": ('{"a":' * 5000 + "1" + "}" * 5000, "malformed_json"),
    "oversized": (json.dumps({"a": "a" * 2**20}), "message_too_large"),
    "id": (json.dumps({"run_id": EVIL}), "invalid_id"),
    "thread": (json.dumps({"thread_id": ["evil"]}), "invalid_id"),
}


@over_websockets
def test_bad_messages_are_answered_and_the_connection_goes_on(server: Server) -> None:
    before = started(server)
    with connecting(server, **{"X-Api-Key": KEY}) as socket:
        for name, (message, code) in MESSAGES.items():
            socket.send(message)
            answer = socket.recv(timeout=20)
            assert json.loads(answer)["error"]["type"] == code, name
            assert not any(inside in answer.encode() for inside in INSIDE), name
        assert started(server) == before
        socket.send("{}")
        kinds = [json.loads(socket.recv(timeout=20))["type"]]
        while kinds[-1] != "RUN_FINISHED":
            kinds.append(json.loads(socket.recv(timeout=20))["type"])
    assert started(server) == before + 1
