"""What holds for the package as a whole: its floors, its public names, and what is shipped."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
import zipfile
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

import streamtrace

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

PUBLIC_NAMES = {
    # around an app
    "StreamTraceMiddleware",
    "annotate",
    "active_streams",
    "instrument",
    "Price",
    "Pricing",
    "sinks_from_env",
    # to write a sink
    "Sink",
    "SinkStats",
    "StreamInfo",
    "RunSummary",
    "Status",
    # to write a dialect
    "Dialect",
    "Frame",
    "Event",
    "Custom",
    "GenerationFinished",
    "GenerationStarted",
    "Heartbeat",
    "MessageFinished",
    "MessageStarted",
    "ReasoningDelta",
    "ReasoningFinished",
    "ReasoningStarted",
    "RunCancelled",
    "RunFailed",
    "RunFinished",
    "RunInterrupted",
    "RunStarted",
    "Source",
    "State",
    "StepFinished",
    "StepStarted",
    "TextDelta",
    "ToolCallArgumentsDelta",
    "ToolCallReady",
    "ToolCallResult",
    "ToolCallStarted",
    "Usage",
    # what goes wrong
    "ConfigError",
    "MissingExtra",
    "StreamTraceError",
}

# Refuses every import that neither Python nor the package's one dependency brings.
REFUSE_THE_REST = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        root = name.partition(".")[0]
        if root not in sys.stdlib_module_names and root not in ("streamtrace", "msgspec"):
            raise ModuleNotFoundError(f"{name} is not there", name=name)

sys.meta_path.insert(0, Refuse())
"""


def run_python(code: str, *paths: Path) -> subprocess.CompletedProcess[str]:
    """Run `code` in a fresh interpreter that finds modules in `paths` first."""
    prelude = f"import sys; sys.path[:0] = {[str(path) for path in paths]!r}\n"
    return subprocess.run(
        [sys.executable, "-I", "-c", prelude + REFUSE_THE_REST + code],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def built(directory: Path, environment: dict[str, str]) -> Path:
    """The wheel."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target=wheel", "--directory", directory],
        cwd=ROOT,
        env={**os.environ, **environment},
        check=True,
        capture_output=True,
    )
    (wheel,) = directory.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("wheel"), {})


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that holds the installed wheel and nothing else."""
    directory = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--target", directory, wheel], check=True)
    return directory


def test_modules_import_from_lower_floors_only() -> None:
    """In a process of its own: the checker silences all loggers that there are."""
    command = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports())"
    done = subprocess.run(
        [sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_public_names_are_these() -> None:
    assert set(streamtrace.__all__) == PUBLIC_NAMES
    assert all(hasattr(streamtrace, name) for name in PUBLIC_NAMES)


def test_the_changelog_tells_of_this_version() -> None:
    assert f"## [{PROJECT['version']}]" in (ROOT / "CHANGELOG.md").read_text()


def test_each_extra_that_an_error_names_exists() -> None:
    named = {
        node.args[1].value
        for path in (ROOT / "streamtrace").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", None) == "MissingExtra"
        and isinstance(node.args[1], ast.Constant)
    }
    assert named
    assert named <= PROJECT["optional-dependencies"].keys()


def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    package = ROOT / "streamtrace"
    sources = {
        path.relative_to(ROOT).as_posix()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
        if path.suffix not in {".c", ".h", ".so", ".pyd"}
    }
    sources.add(f"streamtrace/speedups{EXTENSION_SUFFIXES[0]}")
    shipped = set(zipfile.ZipFile(wheel).namelist())
    assert "streamtrace/py.typed" in sources
    assert sources == {name for name in shipped if name.startswith("streamtrace/")}
    assert any(name.endswith("/licenses/LICENSE") for name in shipped)


@pytest.mark.parametrize(
    "environment",
    [{"STREAMTRACE_PURE_PYTHON": "1"}, {"CC": "false"}],
    ids=["on purpose", "without a compiler"],
)
def test_without_speedups_the_wheel_is_for_every_machine(
    environment: dict[str, str], tmp_path: Path
) -> None:
    wheel = built(tmp_path, environment)
    assert wheel.name.endswith("-py3-none-any.whl")
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if ".so" in name]


def test_python_does_without_speedups_what_they_do() -> None:
    code = "from streamtrace.core import compiled; print(compiled.Sender)"
    for pure, sender in (("1", "None"), ("0", "<class 'streamtrace.speedups.Sender'>")):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "STREAMTRACE_PURE_PYTHON": pure},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == sender


def test_the_installed_package_imports_without_any_extra(installed: Path) -> None:
    result = run_python(
        """
import streamtrace, streamtrace.core.events, streamtrace.dialects, streamtrace.observe
import streamtrace.sinks, streamtrace.testing
for name in streamtrace.__all__:
    getattr(streamtrace, name)
print(streamtrace.__file__)
""",
        installed,
    )
    assert result.returncode == 0, result.stderr
    assert Path(result.stdout.strip()).is_relative_to(installed)


def test_every_module_of_the_core_the_dialects_and_the_observer_needs_only_msgspec(
    installed: Path,
) -> None:
    modules = [
        ".".join(path.relative_to(installed).with_suffix("").parts)
        for floor in ("core", "dialects", "observe")
        for path in (installed / "streamtrace" / floor).rglob("*.py")
    ]
    assert modules
    code = f"import importlib\nfor name in {modules!r}: importlib.import_module(name)"
    result = run_python(code, installed)
    assert result.returncode == 0, result.stderr


def test_the_command_is_installed_and_tells_its_subcommands(installed: Path) -> None:
    result = subprocess.run(
        [installed / "bin" / "streamtrace", "--help"],
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "demo" in result.stdout
