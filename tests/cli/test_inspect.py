"""`streamtrace inspect`: recorded bodies, from files and from standard input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import genai_prices
import pytest
from support import command
from support.recordings import RECORDED

from streamtrace.cli.main import main
from streamtrace.cli.text import clean
from streamtrace.core.jsonio import dump_json
from streamtrace.dialects.detect import BUILT_IN
from streamtrace.observe.offline import summarize

RECORDINGS = [stream.path for stream in RECORDED]
KNOWN = {dialect.name for dialect in BUILT_IN}


def dialect_of(recording: Path) -> str:
    return json.loads(recording.with_suffix(".meta.json").read_text())["dialect"]


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda path: path.stem)
def test_a_recording_becomes_json(capsys, recording):
    assert main(["inspect", str(recording), "--json"]) == 0
    line = capsys.readouterr().out
    run = json.loads(line)
    assert line.count("\n") == 1
    known = dialect_of(recording) in KNOWN
    assert run["dialect"] == (dialect_of(recording) if known else "unknown")
    assert run["frames"] > 0
    assert run["bytes"] == recording.stat().st_size


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda path: path.stem)
def test_a_recording_is_drawn_so_that_it_can_be_read(capsys, monkeypatch, recording):
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["inspect", str(recording)]) == 0
    out = capsys.readouterr().out
    assert "a recording has no times" in out
    assert "\x1b" not in out
    main(["inspect", str(recording), "--json"])
    run = json.loads(capsys.readouterr().out)
    assert f"{run['status'].replace('_', ' ')}" in out.splitlines()[1]
    assert f" · {run['dialect']}" in out
    rows = [line for line in out.splitlines() if line.startswith(("  ├ ", "  └ "))]
    for part in [*run["generations"], *run["tool_calls"]][:10]:
        name = part.get("name") or part.get("model") or ""
        assert any(clean(name)[:20] in row for row in rows)
    assert all(row.split()[-1] in {"B", "kB", "MB", "asked", "more"} for row in rows)
    for step in run["steps"][:3]:
        assert clean(step["name"])[:20] in out
    if run["error"] is not None:
        assert clean(run["error"]["type"]) in out
        if run["error"]["message"]:
            assert f"error: {clean(run['error']['message'])[:60]}" in out
    said = next((one["text"] for one in reversed(run["generations"]) if one["text"]), "")
    assert clean(said)[:60].strip() in " ".join(out.split())


def test_times_that_nobody_knows_are_null(capsys):
    recording = next(path for path in RECORDINGS if "web_fetch" in path.stem)
    main(["inspect", str(recording), "--json"])
    run = json.loads(capsys.readouterr().out)
    assert {"duration_s", "time_to_first_token_s", "send_stall_s"} <= run.keys()
    for part in (run, *run["generations"], *run["tool_calls"], *run["steps"]):
        for name, value in part.items():
            assert value is None or not name.endswith("_s"), name
    assert run["started_at"] is None


def test_content_is_shown_in_full(capsys):
    recording = next(path for path in RECORDINGS if "web_fetch" in path.stem)
    main(["inspect", str(recording), "--json"])
    run = json.loads(capsys.readouterr().out)
    assert run["generations"][-1]["text"].startswith("Pydantic AI is a Python agent framework")
    assert run["tool_calls"][0]["arguments"]


def listed(model: str, **counts: int) -> float:
    return float(genai_prices.calc_price(genai_prices.Usage(**counts), model).total_price)


def test_what_a_recording_cost_is_told(capsys):
    recording = next(path for path in RECORDINGS if "sync_messages_beta" in path.stem)
    main(["inspect", str(recording), "--json"])
    run = json.loads(capsys.readouterr().out)
    [part] = run["generations"]
    counts = {name: run["usage"][name] for name in ("input_tokens", "output_tokens")}
    assert run["cost_usd"] == pytest.approx(listed(part["model"], **counts))
    main(["inspect", str(recording)])
    assert f"${run['cost_usd']:.6f}" in capsys.readouterr().out


def test_the_cost_of_an_unknown_model_is_absent(capsys):
    recording = next(path for path in RECORDINGS if path.stem == "anthropic_ok.synthetic")
    main(["inspect", str(recording), "--json"])
    run = json.loads(capsys.readouterr().out)
    assert run["usage"]
    assert run["cost_usd"] is None
    main(["inspect", str(recording)])
    assert "$" not in capsys.readouterr().out


def test_a_recording_without_a_date_has_the_prices_of_today():
    usage = {"input_tokens": 1000, "output_tokens": 100}
    body = {"type": "done", "model": "o3", "usage": usage}
    run = summarize([f"data: {dump_json(body)}\n\n".encode()])
    assert run.cost_usd == pytest.approx(listed("o3", **usage))


def test_prices_can_be_left_out():
    recording = next(path for path in RECORDINGS if "sync_messages_beta" in path.stem)
    assert summarize([recording.read_bytes()], pricing=None).cost_usd is None


def test_standard_input_reads_as_a_file_does(capsys):
    recording = RECORDINGS[0]
    main(["inspect", str(recording), "--json"])
    done = command.run("inspect", "-", "--json", stdin=recording.read_bytes())
    assert done.returncode == 0
    assert json.loads(done.stdout) == json.loads(capsys.readouterr().out)


def test_json_lines_are_known_by_their_brace():
    lines = b'{"type":"token","content":"Hel"}\n{"type":"token","content":"lo"}\n{"type":"done"}\n'
    done = command.run("inspect", "-", "--json", stdin=lines)
    run = json.loads(done.stdout)
    assert (run["dialect"], run["status"], run["frames"]) == ("generic", "completed", 3)
    assert run["generations"][0]["text"] == "Hello"


@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf\n"])
def test_the_lines_of_vercels_data_stream_are_known_by_their_code(capsys, tmp_path, before):
    recording = command.ROOT / "tests" / "recordings" / "ai4_tools.txt"
    copy = tmp_path / "copy.txt"
    copy.write_bytes(before + recording.read_bytes())
    assert main(["inspect", str(copy), "--json"]) == 0
    run = json.loads(capsys.readouterr().out)
    assert (run["dialect"], run["status"], run["frames"]) == ("vercel-data", "completed", 21)


def test_an_empty_body_is_a_run_of_nothing():
    done = command.run("inspect", "-", "--json", stdin=b"")
    assert done.returncode == 0
    run = json.loads(done.stdout)
    assert (run["dialect"], run["frames"], run["events"]) == ("unknown", 0, 0)


def test_the_dialect_can_be_told(capsys):
    recording = next(path for path in RECORDINGS if dialect_of(path) == "anthropic")
    assert main(["inspect", str(recording), "--json", "--dialect", "openai-chat"]) == 0
    assert json.loads(capsys.readouterr().out)["dialect"] == "openai-chat"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["no/such/file.sse"], "No such file"),
        (["."], "directory"),
        ([str(RECORDINGS[0]), "--dialect", "klingon"], "klingon"),
    ],
)
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_what_cannot_be_read_is_a_message(capsys, arguments, told, more):
    assert main(["inspect", *arguments, *more]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert told in err
    assert err.startswith("streamtrace: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_reader_that_leaves_is_no_failure_to_talk_about(more):
    """`streamtrace inspect ... | head -1`"""
    recording = next(path for path in RECORDINGS if "web_fetch" in path.stem)
    with subprocess.Popen(
        [sys.executable, "-m", "streamtrace.cli", "inspect", str(recording), *more],
        env=command.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""


@pytest.mark.parametrize("more", [[], ["--json"]])
@pytest.mark.parametrize(
    ("file", "redirected", "told"),
    [
        ("-", "<&-", "standard input is closed"),
        (str(RECORDINGS[0]), ">&-", "standard output is closed"),
        (str(RECORDINGS[0]), ">/dev/full", "No space left"),
    ],
)
def test_what_cannot_be_read_or_written_to_is_a_message(file, redirected, told, more):
    inspect = [sys.executable, "-m", "streamtrace.cli", "inspect", file, *more]
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirected}', "sh", *inspect],
        env=command.environment(),
        stderr=subprocess.PIPE,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert told in done.stderr.decode()
    assert done.stderr.startswith(b"streamtrace: ")
    assert done.stderr.count(b"\n") == 1


def test_without_standard_error_the_output_stays_clean():
    inspect = [sys.executable, "-m", "streamtrace.cli", "inspect", "no/such/file.sse"]
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", *inspect],
        env=command.environment(),
        stdout=subprocess.PIPE,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, b"")


def test_json_needs_no_extra_package():
    """rich, starlette and uvicorn are not imported for it."""
    code = (
        "import sys; from streamtrace.cli.main import main;"
        f"code = main(['inspect', {str(RECORDINGS[0])!r}, '--json']);"
        "found = {'rich', 'starlette', 'uvicorn', 'prometheus_client'} & set(sys.modules);"
        "sys.exit(f'imported {found}' if found else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=command.environment(),
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
