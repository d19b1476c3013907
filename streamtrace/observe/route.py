"""The route template of a request, for labels: `/threads/{thread_id}/chat`, never a raw path.

Starlette and FastAPI are not imported: their routes are asked by duck typing (`matches`,
`path_format`; FastAPI's included routers by `effective_route_contexts`). Where no route answers,
the label is `unmatched`, so a scanner makes no new ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

UNMATCHED = "unmatched"
_FULL_MATCH = 2
_MAX_DEPTH = 8


def route_template(scope: Mapping[str, Any], path: str, root_path: str, app: Any) -> str:
    """The template of the route that serves `scope` in `app`, with the prefixes of its mounts.

    `path` and `root_path` are those that it came with: mounts change them. Never raises.
    """
    template: str | None
    try:
        routes = _routes_of(app)
        served = scope.get("route")  # Starlette and FastAPI leave it there
        if any(route is served for route in routes) and not hasattr(served, "routes"):
            template = _template_of(served)
        else:
            whole = {**scope, "path": path, "root_path": root_path}
            template = _match(routes, whole, _MAX_DEPTH)
    except Exception:  # routes of other people's classes; a label is worth no error
        template = None
    return template if template else UNMATCHED


def _match(routes: Iterable[Any], scope: dict[str, Any], depth: int) -> str | None:
    for route in _flat(routes):
        match, child_scope = route.matches(scope)
        if getattr(match, "value", match) != _FULL_MATCH:
            continue
        path = _template_of(route)
        if not hasattr(route, "routes"):
            return path
        path = path.removesuffix("/{path}")  # a mount, which matches whatever follows
        rest = _match(_routes_of(route), {**scope, **child_scope}, depth - 1) if depth else None
        return path + rest if rest else path or UNMATCHED
    return None


def _template_of(route: Any) -> str:
    return str(getattr(route, "path_format", None) or getattr(route, "path", ""))


def _flat(routes: Iterable[Any]) -> Iterator[Any]:
    for route in routes:
        if hasattr(route, "effective_route_contexts"):
            for context in route.effective_route_contexts():
                yield getattr(context, "starlette_route", None) or context
        else:
            yield route


def _routes_of(app: Any) -> Iterable[Any]:
    """The routes of an app, behind any middleware that keeps it as `app`."""
    for _ in range(2 * _MAX_DEPTH):
        routes = getattr(app, "routes", None)
        if routes:
            return list(routes)
        app = getattr(app, "app", None)
        if app is None:
            break
    return ()
