"""Write the dashboards and rules: `python -m dashboards.source`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from dashboards.source import pipeline, rules, streams, tools

FOLDER = Path(__file__).parent.parent
PAGES = {"streams": streams, "tools-and-cost": tools, "pipeline": pipeline}


def files() -> Iterator[tuple[str, str]]:
    """Each file below `dashboards/`, and its text."""
    for name, module in PAGES.items():
        text = json.dumps(module.build(), indent=1, sort_keys=True, ensure_ascii=False)
        yield f"grafana/dashboards/{name}.json", text + "\n"
    yield "prometheus/rules/streamtrace.recording.yml", rules.recording()
    yield "prometheus/rules/streamtrace.alerts.yml", rules.alerts()


def main() -> None:
    for name, text in files():
        path = FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
