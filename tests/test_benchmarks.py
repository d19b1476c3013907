"""The benchmarks run, and what they measure besides time holds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def run(script: str, result: Path, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, ROOT / "benchmarks" / script, "--json", result, *arguments]
    subprocess.run(
        command, env={"PYTHONPATH": str(ROOT)}, check=True, capture_output=True, timeout=50
    )
    return json.loads(result.read_text())


def test_the_path_keeps_the_chunks_and_copies_none(tmp_path: Path) -> None:
    result = run("path.py", tmp_path / "path.json", "--rounds=1", "--chunks=200")
    assert result["path"].keys() == {"bare", "pass-through", "streamtrace"}
    held = result["held_bytes_per_chunk"]
    small, *larger = (held[size] for size in sorted(held, key=int))
    assert 0 < small < 250
    assert all(one < small + 10 for one in larger)


def test_every_dialect_of_the_recordings_is_decoded(tmp_path: Path) -> None:
    result = run("decode.py", tmp_path / "decode.json", "--rounds=1")
    metas = (ROOT / "tests" / "recordings").glob("*.meta.json")
    dialects = {json.loads(meta.read_text())["dialect"] for meta in metas}
    assert dialects <= result.keys()
    assert all(result[dialect]["events"] > 0 for dialect in dialects)
    costs = {one["dialect"]: one for one in result["text_deltas"]}
    assert {"ag-ui", "anthropic", "cognis", "openai-chat", "openai-responses"} <= costs.keys()
    assert all(one["us"] > 0 and one["bytes"] > 5 for one in costs.values())
