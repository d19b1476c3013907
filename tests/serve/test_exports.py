"""What `streamtrace.serve` offers: all of it there, none of it imported before it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

from streamtrace import serve


@pytest.mark.parametrize("name", serve.__all__)
def test_a_name_is_where_it_says(name: str) -> None:
    assert getattr(serve, name) is not None


def test_the_lists_agree():
    assert set(serve.__all__) == set(serve._HOMES)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        serve.Nothing  # noqa: B018


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_an_import_of_the_package_imports_no_framework():
    loaded = run(
        "import sys, streamtrace.serve; "
        "print({'starlette', 'pydantic', 'a2a', 'ag_ui', 'joserfc'} & set(sys.modules))"
    )
    assert loaded == "set()"


def test_the_router_needs_no_more_than_starlette():
    loaded = run(
        "import sys; from streamtrace.serve import AgentRouter; "
        "print({'pydantic', 'a2a', 'ag_ui', 'joserfc', 'limits'} & set(sys.modules))"
    )
    assert loaded == "set()"


@pytest.mark.parametrize(
    ("package", "name", "extra"),
    [
        ("starlette", "AgentRouter", "serve"),
        ("ag_ui", "AgUiApp", "agui"),
        ("a2a", "A2AExecutor", "a2a"),
        ("joserfc", "JwtAuth", "jwt"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(package: str, name: str, extra: str) -> None:
    told = run(
        f"import sys; sys.modules[{package!r}] = None\n"
        "from streamtrace import MissingExtra, serve\n"
        f"try: serve.{name}\n"
        "except MissingExtra as error: print(error)"
    )
    assert f"pip install 'streamtrace[{extra}]'" in told


@pytest.mark.parametrize(
    ("package", "call", "extra"),
    [("ag_ui", "agui(print)", "agui"), ("a2a", "a2a(print, None)", "a2a")],
)
def test_a_router_names_it_as_well(package: str, call: str, extra: str) -> None:
    told = run(
        f"import sys; sys.modules[{package!r}] = None\n"
        "from streamtrace import MissingExtra\n"
        "from streamtrace.serve import AgentRouter\n"
        f"try: AgentRouter().{call}\n"
        "except MissingExtra as error: print(error)"
    )
    assert f"pip install 'streamtrace[{extra}]'" in told
