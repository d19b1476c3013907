"""Builds streamtrace.speedups from streamtrace/c, where that can be; else Python does the same.

`pip install` from source needs nothing but Python then: no compiler, or no headers, is no failure.
STREAMTRACE_PURE_PYTHON=1 leaves it out on purpose: for a wheel that runs everywhere.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import tempfile
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from setuptools import Distribution, Extension

NAME = f"streamtrace/speedups{EXTENSION_SUFFIXES[0]}"
OFF = ("", "0", "false", "no", "off")
FLAGS = [] if os.name == "nt" else ["-O3", "-g0", "-fvisibility=hidden"]


class Speedups(BuildHookInterface[Any]):
    """Puts the compiled module into the wheel; beside its source, where that is to be edited."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it builds; `version` is "editable" or "standard"."""
        self._directory = tempfile.TemporaryDirectory()
        root, beside = Path(self.root), Path(self.root) / NAME
        if version == "editable":
            beside.unlink(missing_ok=True)
        is_wanted = os.environ.get("STREAMTRACE_PURE_PYTHON", "0") in OFF
        # It counts on the interpreter's lock, which to import it would switch on.
        if not is_wanted or sysconfig.get_config_var("Py_GIL_DISABLED"):
            return
        built = compiled(root / "streamtrace/c", Path(self._directory.name))
        if not built.exists():
            print("streamtrace is built without speedups: see above", file=sys.stderr)
        elif version == "editable":
            beside.write_bytes(built.read_bytes())
        else:
            build_data["force_include"][str(built)] = NAME
            build_data["infer_tag"], build_data["pure_python"] = True, False

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Called by hatchling when the wheel is written."""
        self._directory.cleanup()


def compiled(sources: Path, directory: Path) -> Path:
    """Where the library is, if it could be built; else setuptools says why not."""
    extension = Extension(
        "streamtrace.speedups",
        sorted(source.name for source in sources.glob("*.c")),
        depends=["speedups.h"],
        extra_compile_args=FLAGS,
        optional=True,
    )
    command: Any = Distribution({"ext_modules": [extension]}).get_command_obj("build_ext")
    command.build_lib = command.build_temp = str(directory)
    command.ensure_finalized()
    before = Path.cwd()
    os.chdir(sources)  # or their path would be in the library, and below `directory`
    try:
        command.run()
    finally:
        os.chdir(before)
    return directory / NAME
