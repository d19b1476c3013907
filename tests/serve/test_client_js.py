"""`streamtrace.js` as a file: how it is served, what it reads, its types, and its package."""

from __future__ import annotations

import asyncio
import json
import random
import tomllib
from base64 import b64encode
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient
from support.clients import CLIENTS, NODE

from streamtrace.serve import AgentRouter
from streamtrace.serve.client_js import FILE

ROOT = Path(__file__).parents[2]
CASES = json.loads((ROOT / "tests" / "recordings" / "sse_conformance.json").read_text("utf-8"))
TSC = CLIENTS / "node_modules" / "typescript" / "bin" / "tsc"
NPM = NODE.parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"

READ = f"""
import {{ readFileSync }} from "node:fs";
import {{ SseParser }} from "{FILE.as_uri()}";

const answers = JSON.parse(readFileSync(0, "utf-8")).map((chunks) => {{
  const parser = new SseParser();
  const frames = chunks.flatMap((chunk) => parser.feed(Buffer.from(chunk, "base64")));
  return {{ frames, id: parser.lastEventId, retry: parser.retry }};
}});
process.stdout.write(JSON.stringify(answers));
"""


async def node(*arguments: str | Path, text: str = "", cwd: Path = CLIENTS) -> str:
    """What Node.js prints; it may take a minute and must succeed."""
    process = await asyncio.create_subprocess_exec(
        NODE,
        *arguments,
        cwd=cwd,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(50):
        out, errors = await process.communicate(text.encode())
    assert process.returncode == 0, (out + errors).decode()
    return out.decode()


# --- served ------------------------------------------------------------------------------------


def test_it_is_served_and_known_again():
    client = TestClient(AgentRouter().client_js().app())
    answer = client.get("/streamtrace.js")
    assert (answer.status_code, answer.content) == (200, FILE.read_bytes())
    assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    tag = answer.headers["etag"]
    for known in (tag, f'"other", W/{tag}'):
        again = client.get("/streamtrace.js", headers={"if-none-match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == tag
    assert client.get("/streamtrace.js", headers={"if-none-match": '"other"'}).status_code == 200


def test_other_methods_and_paths():
    client = TestClient(AgentRouter().client_js("/js/runs.js").app())
    head = client.head("/js/runs.js")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(FILE.stat().st_size)
    refused = client.post("/js/runs.js")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")


# --- the parser --------------------------------------------------------------------------------


def cut(body: bytes, seed: int) -> list[bytes]:
    chance = random.Random(seed)
    places = sorted(chance.randrange(len(body) + 1) for _ in range(12))
    return [body[start:end] for start, end in pairwise([0, *places, len(body)])]


async def parsed(streams: list[list[bytes]]) -> Any:
    sent = json.dumps([[b64encode(chunk).decode() for chunk in chunks] for chunks in streams])
    return json.loads(await node("--input-type=module", "--eval", READ, text=sent))


async def test_the_parser_reads_as_the_standard_says_however_the_bytes_are_cut():
    streams, expected = [], []
    for case in CASES:
        body = case["input"].encode("utf-8", "surrogatepass") if "input" in case else b""
        for way in ([body], [body[at : at + 1] for at in range(len(body))], cut(body, 1)):
            streams.append(way)
            expected.append(case)
    assert len(CASES) == 105
    for got, case in zip(await parsed(streams), expected, strict=True):
        frames = [
            {key: one[key] for key in ("event", "data", "id")}
            for one in got["frames"]
            if one["data"] is not None
        ]
        wanted = [{key: one[key] for key in ("event", "data", "id")} for one in case["expected"]]
        assert frames == wanted, case["name"]
        assert (got["id"], got["retry"]) == (case["last_event_id"], case["retry"]), case["name"]


async def test_the_parser_tells_ids_of_their_own_and_blocks_without_data():
    body = b"id: 1\ndata: a\n\ndata: b\n\nid: 2\n\nevent: c\n\n"
    [got] = await parsed([[body]])
    assert got["frames"] == [
        {"event": "message", "data": "a", "id": "1", "hasId": True},
        {"event": "message", "data": "b", "id": "1", "hasId": False},
        {"event": "message", "data": None, "id": "2", "hasId": True},
    ]


async def test_a_frame_has_a_bound():
    """In lines and in one that never ends; a frame of that size is read."""
    check = f"""
import assert from "node:assert";
import {{ SseParser }} from "{FILE.as_uri()}";
const bytes = (text) => new TextEncoder().encode(text);
const fed = (text) => () => {{
  const parser = new SseParser(100);
  for (const one of text) parser.feed(bytes(one));
}};
assert.throws(fed("data: " + "a".repeat(95)), RangeError);
assert.throws(fed("data: a\\n".repeat(15)), RangeError);
fed("data: aaaaaaaaaa\\n\\n".repeat(20))();
assert.equal(new SseParser(100).feed(bytes("data: " + "a".repeat(94) + "\\n\\n")).length, 1);
"""
    await node("--input-type=module", "--eval", check)


# --- types and package -------------------------------------------------------------------------


async def test_its_types_are_those_of_the_code(tmp_path: Path, golden: Callable[[str, str], None]):
    """The code is checked by TypeScript, and the declarations are made from it."""
    strict = ["--strict", "--allowJs", "--checkJs", "--target", "es2022", "--module", "nodenext"]
    lib = ["--lib", "es2022,dom,dom.iterable", "--noUnusedLocals", "--noImplicitReturns"]
    made = ["--declaration", "--emitDeclarationOnly", "--stripInternal", "--outDir", tmp_path]
    await node(TSC, *strict, *lib, *made, FILE)
    golden(
        "streamtrace/serve/static/streamtrace.d.ts",
        (tmp_path / "streamtrace.d.ts").read_text("utf-8"),
    )


async def test_it_installs_as_a_package_with_its_types(tmp_path: Path):
    """By npm from its folder, used by Node.js and by TypeScript."""
    quiet = ["--silent", "--offline", "--no-audit", "--no-fund", "--no-package-lock"]
    (tmp_path / "package.json").write_text('{"type": "module", "private": true}')
    await node(NPM, "install", *quiet, "--install-links", FILE.parent, cwd=tmp_path)
    used = (CLIENTS / "streamtrace.ts").read_text("utf-8")
    (tmp_path / "used.ts").write_text(used)
    options = ["--strict", "--target", "es2022", "--module", "nodenext", "--lib", "es2022,dom"]
    await node(TSC, "--noEmit", "--skipLibCheck", "false", *options, "used.ts", cwd=tmp_path)
    names = 'import * as all from "streamtrace"; console.log(Object.keys(all).sort().join(" "))'
    printed = await node("--input-type=module", "--eval", names, cwd=tmp_path)
    assert printed.split() == [
        "ConnectionLost",
        "RunClient",
        "RunRefused",
        "RunStream",
        "SseParser",
    ]
    package = json.loads((FILE.parent / "package.json").read_text("utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert (package["version"], package["license"]) == (project["version"], project["license"])
