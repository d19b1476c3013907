"""The client library: imported when a sink or app is made, so that it may be absent."""

from __future__ import annotations

import importlib
from typing import Any

from streamtrace.core.errors import MissingExtra


def client(module: str = "") -> Any:
    """`prometheus_client`, or a module of it."""
    try:
        return importlib.import_module(f"prometheus_client{module}")
    except ModuleNotFoundError as error:
        if error.name != "prometheus_client":
            raise
        raise MissingExtra("prometheus_client", "prometheus") from None


def is_multiprocess() -> bool:
    """Whether values go to the files of `PROMETHEUS_MULTIPROC_DIR`.

    The client decides it once, at its import; a variable that is set later changes nothing.
    """
    return bool(client(".values").ValueClass._multiprocess)
