"""docs/run-summary.md names every field of the record, with its type, and no other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from support.summaries import EXAMPLES, failed_run, lossy_run

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
    """Two runs that together have every field: nothing missing on the page, nothing made up."""
    told = {path for run in (lossy_run(), failed_run()) for path, _ in leaves(run.to_dict())}
    told -= {"usage", "error"}  # as a whole null in one of the two

    assert told == set(documented())


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_value_has_the_documented_type(example):
    """And is null only where the page says when."""
    fields = documented()
    for path, value in leaves(EXAMPLES[example]().to_dict()):
        if value is None:
            assert path in {"usage", "error"} or fields[path][1] != "never", path
        else:
            kind = TYPES[fields[path][0]]
            assert isinstance(value, kind), path
            assert isinstance(value, bool) is (kind is bool), path
