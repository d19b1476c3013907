"""What `streamtrace.serve` offers: all of it there, none of it imported before it is used."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from support.pages import ROOT

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
        "print({'pydantic', 'a2a', 'ag_ui', 'joserfc', 'limits', 'redis'} & set(sys.modules))"
    )
    assert loaded == "set()"


@pytest.mark.parametrize(
    ("package", "name", "extra"),
    [
        ("starlette", "AgentRouter", "serve"),
        ("ag_ui", "AgUiApp", "agui"),
        ("a2a", "A2AExecutor", "a2a"),
        ("joserfc", "JwtAuth", "jwt"),
        ("limits", "RateLimit", "limits"),
        ("redis", "RedisLeases", "redis"),
        ("redis", "RedisLog", "redis"),
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


def test_sockets_guards_and_tickets_need_no_framework():
    """So that a server's own configuration may use them."""
    loaded = run(
        "import sys; sys.modules['starlette'] = None\n"
        "from streamtrace.serve import Broadcast, CitationEnricher, FinalAnswer, KindFilter, "
        "Tickets, draining, listening_socket\n"
        "print('there')"
    )
    assert loaded == "there"


def test_what_the_pages_import_is_offered_here():
    """Pages name `streamtrace.serve`, and not the file that holds it."""
    pages = [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", *(ROOT / "examples").rglob("*.py")]
    deeper = [
        (page.name, found)
        for page in pages
        for found in re.findall(r"from streamtrace\.serve\.\w+ import .*", page.read_text("utf-8"))
    ]
    assert deeper == []


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
