"""`streamtrace run MODULE:APP`, and the command line as a whole."""

from __future__ import annotations

import builtins
import json
import signal
import socket
import textwrap
import tomllib

import httpx2
import pytest
from support.command import ROOT, environment, run, started
from support.servers import wait_for
from websockets.sync.client import connect

from streamtrace.cli.main import main

APP = """
async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("http only")
    await send({"type": "http.response.start", "status": 200,
                "headers": [(b"content-type", b"text/event-stream")]})
    for piece in (b"event: token\\ndata: secret words\\n\\n", b"event: done\\ndata: {}\\n\\n"):
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body"})

async def chat(scope, receive, send):
    if scope["type"] != "websocket":
        raise RuntimeError("websocket only")
    await receive()
    await send({"type": "websocket.accept"})
    asked = await receive()
    for piece in ('{"type": "token", "content": "%s, too"}' % asked["text"], '{"type": "done"}'):
        await send({"type": "websocket.send", "text": piece})
    await send({"type": "websocket.close"})

not_an_app = 3
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "tiny.py").write_text(textwrap.dedent(APP))
    (tmp_path / "broken.py").write_text("import no_such_package_anywhere\n")
    return tmp_path


def test_an_app_is_served_unchanged_and_drawn_without_content(folder):
    with started("run", "tiny:app", "--port", "0", cwd=folder, log=folder / "log") as command:
        answer = httpx2.post(f"{command.url()}/anything", content=b"hello", timeout=30)
        assert answer.content == (b"event: token\ndata: secret words\n\nevent: done\ndata: {}\n\n")
        command.wait_for(r"completed · cognis · POST")
        assert "No sink is set" in command.output()
        assert command.stop() == 0
        assert "secret" not in command.output()


def test_an_app_that_speaks_websocket_is_served_too(folder):
    with started("run", "tiny:chat", "--port", "0", cwd=folder, log=folder / "log") as command:
        with connect(f"{command.url().replace('http', 'ws')}/chat") as client:
            client.send("hello")
            assert [json.loads(message) for message in client] == [
                {"type": "token", "content": "hello, too"},
                {"type": "done"},
            ]
        command.wait_for(r"completed · generic")


def test_the_extra_brings_what_websocket_needs():
    """uvicorn itself refuses every WebSocket without."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {one.partition(">")[0] for one in extras["optional-dependencies"]["cli"]}
    assert {"uvicorn", "websockets"} <= names


def test_metrics_are_served_on_a_port_of_their_own(folder):
    with started(
        *("run", "tiny:app", "--port", "0", "--metrics-port", "0"),
        cwd=folder,
        log=folder / "log",
        env=environment(STREAMTRACE_PROMETHEUS="1"),
    ) as command:
        metrics = command.wait_for(r"Metrics are served at (http://127\.0\.0\.1:\d+/metrics)")[1]
        httpx2.post(f"{command.url()}/anything", content=b"hello", timeout=30)
        counted = (
            'streamtrace_streams_total{dialect="cognis",route="unmatched",status="completed"} 1'
        )
        wait_for(lambda: counted in httpx2.get(metrics, timeout=30).text, 30)
        assert command.stop() == 0
        assert "Traceback" not in command.output()
        assert "ERROR" not in command.output()


def test_metrics_that_nobody_serves_come_with_a_word_on_how_to_see_them(folder):
    env = environment(STREAMTRACE_PROMETHEUS="1")
    with started(
        "run", "tiny:app", "--port", "0", cwd=folder, log=folder / "log", env=env
    ) as command:
        httpx2.post(f"{command.url()}/anything", content=b"hello", timeout=30)
        assert command.stop() == 0
        assert "metrics_app()" in command.output()
        assert "--metrics-port" in command.output()


def test_a_port_for_metrics_that_are_not_counted_is_a_message(folder):
    done = run("run", "tiny:app", "--port", "0", "--metrics-port", "0", cwd=folder)
    assert done.returncode == 2
    assert b"STREAMTRACE_PROMETHEUS=1" in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_port_for_metrics_that_is_taken_is_a_message(folder):
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        started(
            *("run", "tiny:app", "--port", "0", "--metrics-port", str(taken.getsockname()[1])),
            cwd=folder,
            log=folder / "log",
            env=environment(STREAMTRACE_PROMETHEUS="1"),
        ) as command,
    ):
        assert command.process.wait(30) == 2
        assert "cannot listen" in command.output()
        assert "Traceback" not in command.output()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_sinks_of_the_environment_are_named_and_get_the_runs(folder, how):
    lines = folder / "runs.jsonl"
    env = environment(STREAMTRACE_JSONL=str(lines))
    with started(
        "run", "tiny:app", "--port", "0", cwd=folder, log=folder / "log", env=env
    ) as command:
        httpx2.post(f"{command.url()}/anything", content=b"hello", timeout=30)
        assert "Runs go to: jsonl" in command.output()
        command.stop(how)
    run_of_it = json.loads(lines.read_text().splitlines()[0])
    assert (run_of_it["dialect"], run_of_it["status"]) == ("cognis", "completed")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("tiny", "<module>:<attribute>"),
        ("tiny:", "<module>:<attribute>"),
        ("nowhere:app", "nowhere"),
        ("tiny:nothing", "nothing"),
        ("tiny:not_an_app", "int cannot be called"),
    ],
)
def test_an_app_that_is_not_there_is_a_message(folder, name, told):
    done = run("run", name, "--port", "0", cwd=folder)
    assert done.returncode == 2
    assert told in done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_an_app_that_breaks_at_import_shows_where(folder):
    done = run("run", "broken:app", "--port", "0", cwd=folder)
    assert done.returncode == 1
    assert b"no_such_package_anywhere" in done.stderr
    assert b"broken.py" in done.stderr


def test_a_wrong_variable_is_a_message(folder):
    with started(
        "run",
        "tiny:app",
        cwd=folder,
        log=folder / "log",
        env=environment(STREAMTRACE_PROMETHEUS="perhaps"),
    ) as command:
        assert command.process.wait(30) == 2
        assert "STREAMTRACE_PROMETHEUS" in command.output()
        assert "Traceback" not in command.output()


@pytest.mark.parametrize("what", [["demo"], ["run", "tiny:app"]])
def test_a_port_that_is_taken_is_a_message(folder, what):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run(*what, "--port", port, cwd=folder)
    assert done.returncode == 2
    assert port in done.stderr.decode()
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["sing"],
        ["demo", "--port", "70000"],
        ["demo", "--port", "-1"],
        ["demo", "--for", "0"],
        ["demo", "--for", "nan"],
        ["run"],
        ["run", "tiny:app", "--metrics-port", "70000"],
        ["inspect"],
    ],
)
def test_wrong_usage_ends_with_2(capsys, arguments):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: streamtrace" in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["demo"], ["run"], ["inspect"]])
def test_help_is_there(capsys, command):
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    assert "usage: streamtrace" in capsys.readouterr().out


def test_a_missing_package_names_its_extra(capsys, monkeypatch, tmp_path):
    import sys

    (tmp_path / "body.sse").write_bytes(b"data: 1\n\n")

    real = builtins.__import__

    def without_rich(name, *rest):
        if name.partition(".")[0] == "rich":
            raise ModuleNotFoundError("No module named 'rich'", name="rich")
        return real(name, *rest)

    for name in [name for name in sys.modules if name.startswith("streamtrace.cli.")]:
        if name not in ("streamtrace.cli.main", "streamtrace.cli.errors"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without_rich)
    assert main(["inspect", str(tmp_path / "body.sse")]) == 2
    assert "pip install 'streamtrace[cli]'" in capsys.readouterr().err
