"""Fixtures for all tests.

Files that are made from code (docs, dashboards) are compared with what the code makes now. To write
them again:

    pytest --update-golden
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="write the files that are made from code"
    )


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """`golden("docs/metrics.md", text)`: the file in the project holds exactly this text."""

    def check(path: str, text: str) -> None:
        file = ROOT / path
        if request.config.getoption("--update-golden"):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        held = file.read_text(encoding="utf-8") if file.exists() else None
        assert held == text, f"{path} is stale; write it again with: pytest --update-golden"

    return check
