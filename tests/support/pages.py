"""The project's pages: what they link to, and the code that they show."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent

_BLOCK = r"^```{language}\n(.*?)^```$"
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def python_blocks(page: str) -> dict[str, str]:
    """The Python of a page, by heading; a second block under one is `heading 2`."""
    return blocks(page, "python")


def blocks(page: str, language: str) -> dict[str, str]:
    """The code of a page that is in that language, likewise."""
    text = (ROOT / page).read_text("utf-8")
    pattern = re.compile(_BLOCK.format(language=language), re.MULTILINE | re.DOTALL)
    found: dict[str, str] = {}
    for block in pattern.finditer(text):
        before = _FENCED.sub("", text[: block.start()])
        heading = name = _HEADING.findall(before)[-1]
        number = 1
        while name in found:
            number += 1
            name = f"{heading} {number}"
        found[name] = block[1]
    return found


def execute(page: str, code: str, namespace: dict[str, Any]) -> dict[str, Any]:
    """Run a block of a page; what it defines is added to `namespace`, which is returned."""
    exec(compile(code, page, "exec", dont_inherit=True), namespace)
    return namespace


def rows(text: str) -> list[list[str]]:
    """The cells of all tables in a text, without their heads."""
    tables = [
        [line for line in block.splitlines() if line.startswith("|")]
        for block in text.split("\n\n")
    ]
    lines = [line for table in tables for line in table[2:]]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def broken_links(page: str) -> list[str]:
    """The links of a page to files and headings that are not there."""
    file = ROOT / page
    broken = []
    for link in _LINK.findall(_FENCED.sub("", file.read_text("utf-8"))):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (file.parent / path).resolve() if path else file
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            broken.append(link)
    return broken


def _anchors(file: Path) -> set[str]:
    headings = _HEADING.findall(_FENCED.sub("", file.read_text("utf-8")))
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
