"""docs/run-summary.md names every field of the record, with its type, and no other."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from support.summaries import (
    EXAMPLES,
    content,
    failed_run,
    generation,
    lossy_run,
    resumed_run,
    tool_call,
    without_content,
)

from streamtrace.cli.main import main
from streamtrace.core.summary import ErrorInfo

PAGE = Path(__file__).parents[2] / "docs" / "run-summary.md"
ROW = re.compile(r"^\| `([^`]+)` \| (\w+) \| .+ \| (.+) \|$", re.MULTILINE)
TYPES = {
    "string": str,
    "integer": int,
    "number": int | float,
    "boolean": bool,
    "object": dict,
}


def documented() -> dict[str, tuple[str, str]]:
    """Field path to its type and to when it is null."""
    return {path: (kind, null) for path, kind, null in ROW.findall(PAGE.read_text())}


def leaves(value: Any, path: str = "") -> list[tuple[str, Any]]:
    """Every value in a record with its path, as the page writes it: `generations[].model`."""
    if isinstance(value, dict) and not path.endswith("[].usage"):
        return [
            leaf
            for key, one in value.items()
            for leaf in leaves(one, f"{path}.{key}" if path else key)
        ]
    if isinstance(value, list):
        return [leaf for one in value for leaf in leaves(one, f"{path}[]")]
    return [(path, value)]


def test_the_page_lists_exactly_the_fields_of_the_record():
    """Runs that together have every field: nothing missing on the page, nothing made up."""
    runs = (lossy_run(), failed_run(), resumed_run())
    told = {path for run in runs for path, _ in leaves(run.to_dict())}
    told -= {"usage", "error", "delivery"}  # as a whole null in one of the two

    assert told == set(documented())


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_value_has_the_documented_type(example):
    """And is null only where the page says when."""
    fields = documented()
    for path, value in leaves(EXAMPLES[example]().to_dict()):
        if value is None:
            assert path in {"usage", "error", "delivery"} or fields[path][1] != "never", path
        else:
            kind = TYPES[fields[path][0]]
            assert isinstance(value, kind), path
            assert isinstance(value, bool) is (kind is bool), path


def test_every_cut_text_has_its_true_length_in_the_record():
    """Also a text of which nothing was kept, and the text of an error."""
    cut = content("", chars=1_000_000, truncated=True)
    record = failed_run(
        generations=[generation(text=cut, reasoning=cut)],
        tool_calls=[tool_call(arguments=cut, result=cut)],
        error=ErrorInfo(type="boom", message=cut),
    ).to_dict()
    texts = {
        "generations": ("text", "reasoning"),
        "tool_calls": ("arguments", "result"),
    }

    for parts, fields in texts.items():
        [part] = record[parts]
        assert part["truncated"] is True
        for field in fields:
            assert (part[field], part[f"{field}_chars"]) == ("", 1_000_000)
    assert record["error"] == {
        "type": "boom",
        "message": "",
        "chars": 1_000_000,
        "truncated": True,
    }


@pytest.mark.parametrize("example", EXAMPLES)
def test_lengths_are_told_without_content(example):
    """They are no content."""
    run = EXAMPLES[example]()
    with_texts, without = run.to_dict(), without_content(run).to_dict()

    for path, value in leaves(without):
        assert not path.endswith("chars") or value is not None
    chars = [leaf for leaf in leaves(with_texts) if leaf[0].endswith("chars")]
    assert chars == [leaf for leaf in leaves(without) if leaf[0].endswith("chars")]


def test_a_recording_without_times_has_null_for_all_of_them(capsys):
    """As the page says of `streamtrace inspect --json`."""
    recording = next((Path(__file__).parents[1] / "recordings").glob("ag-ui*.sse"))
    assert main(["inspect", "--json", str(recording)]) == 0
    record = json.loads(capsys.readouterr().out)
    times = [one for path, one in leaves(record) if path == "started_at" or path.endswith("_s")]

    assert len(times) > 10
    assert set(times) == {None}
    assert "`streamtrace inspect --json`" in PAGE.read_text()
