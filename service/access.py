"""Which route needs which scope: one table of every route, and the look-up of a request in it.

What the table does not know is refused, whatever the router says, and `check_routes` stops the start when the router
has a route that the table lacks: a new route is closed until somebody decides here who may call it. Knows no keys.

    template, needed = find_route("GET", "/users/42")     # "/users/{user_id}", Scope.USERS
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final

from fastapi.routing import iter_route_contexts
from starlette.routing import BaseRoute, compile_path

from service.keys import Scope


class Door(StrEnum):
    """Routes that need no key. PROBE is not rate limited either: an orchestrator asks it, come what may."""

    OPEN = "open"
    PROBE = "probe"


Access = Scope | Door

OFF_WITHOUT_KEYS: Final = frozenset({Scope.USERS, Scope.ADMIN})
"""Closed while no key is set; what needs another scope is open then."""

ROUTES: Final[Mapping[str, Mapping[str, Access]]] = {
    "/livez": {"GET": Door.PROBE},
    "/readyz": {"GET": Door.PROBE},
    "/docs": {"GET": Door.OPEN},
    "/openapi.json": {"GET": Door.OPEN},
    "/": {"GET": Door.OPEN},
    "/ui/{path:path}": {"GET": Door.OPEN},
    "/page/map": {"GET": Scope.RECOMMEND},
    "/page/catalogue": {"GET": Scope.RECOMMEND},
    "/page/trace": {"POST": Scope.RECOMMEND},
    "/bundle": {"GET": Scope.RECOMMEND},
    "/recommend": {"POST": Scope.RECOMMEND},
    "/rank": {"POST": Scope.RECOMMEND},
    "/popular": {"GET": Scope.RECOMMEND},
    "/items/{item_id}/similar": {"GET": Scope.RECOMMEND},
    "/items/{item_id}": {"GET": Scope.RECOMMEND, "PUT": Scope.WRITE, "DELETE": Scope.WRITE},
    "/events": {"POST": Scope.WRITE},
    "/users/{user_id}": {"GET": Scope.USERS, "DELETE": Scope.USERS},
    "/admin/bundles": {"GET": Scope.ADMIN},
    "/admin/bundles/activate": {"POST": Scope.ADMIN},
    "/admin/bundles/rollback": {"POST": Scope.ADMIN},
}

_PATTERNS: Final = [(compile_path(template)[0], template) for template in ROUTES if "{" in template]


def find_route(method: str, path: str) -> tuple[str | None, Access | None]:
    """The template that a path belongs to and what its method needs; None for what the table does not know."""
    template = path if path in ROUTES else next((name for pattern, name in _PATTERNS if pattern.match(path)), None)
    if template is None:
        return None, None
    return template, ROUTES[template].get("GET" if method == "HEAD" else method)


def check_routes(routes: Iterable[BaseRoute]) -> None:
    """Raises RuntimeError, for whoever adds a route, when one of them is not in the table."""
    unknown = [
        f"{method} {template}"
        for template, methods in routes_of(routes)
        for method in methods - {"HEAD"}
        if method not in ROUTES.get(template, {})
    ]
    if unknown:
        raise RuntimeError(f"service/access.py does not say who may call {', '.join(sorted(unknown))}")


def routes_of(routes: Iterable[BaseRoute]) -> list[tuple[str, set[str]]]:
    """(template, methods) of every route of an app; a mounted app counts as GET on everything below it."""
    found = []
    for context in iter_route_contexts(list(routes)):
        path, methods = str(context.path), context.methods
        found.append((path, set(methods)) if methods else (f"{path}/{{path:path}}", {"GET"}))
    return found
