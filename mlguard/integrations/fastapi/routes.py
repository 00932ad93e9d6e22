"""Routes that `install` adds: at paths that make sense and are free, and never in the OpenAPI document."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from typing_extensions import TypeIs

from mlguard.errors import PolicyError

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["add_page", "add_probe", "is_fastapi", "refuse_taken"]

Endpoint = Callable[[Request], Awaitable[Response]]


def refuse_taken(app: Starlette, setting: str, path: Any) -> None:
    """Makes sure that a path is one, and that nothing answers there yet.

    Raises:
        PolicyError: It is no plain path, or taken.
    """
    if not isinstance(path, str) or not path.startswith("/") or path.endswith("/") or set(path) & set("{}?#"):
        raise PolicyError(f"install(): {setting} = {path!r} is no plain path. Fix: such as {setting}='/{setting}'.")
    scope = {"type": "http", "method": "GET", "path": path, "root_path": "", "headers": [], "path_params": {}}
    for route in app.routes:
        if route.matches(scope)[0] is Match.FULL:
            raise PolicyError(
                f"install(): GET {path} is answered by {route!r} already. "
                f"Fix: {setting}= with another path, or install before that route is added."
            )


def is_fastapi(app: Starlette) -> TypeIs[FastAPI]:
    """Whether it is a FastAPI application; where FastAPI is not loaded, none is."""
    fastapi = sys.modules.get("fastapi")
    return fastapi is not None and isinstance(app, fastapi.FastAPI)


def add_page(app: Starlette, path: str, page: Endpoint) -> None:
    """A page for people and collectors, with the dependencies that a FastAPI application has as a whole."""
    if is_fastapi(app):
        app.add_api_route(path, page, include_in_schema=False, response_model=None)
    else:
        add_probe(app, path, page)


def add_probe(app: Starlette, path: str, probe: Endpoint) -> None:
    """A page for an orchestrator, which has no key: without any dependencies."""
    app.router.routes.append(Route(path, probe, include_in_schema=False))
