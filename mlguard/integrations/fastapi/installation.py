"""`install`: what an application gets from mlguard, decided once, before it answers its first request."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from starlette.applications import Starlette

from mlguard.errors import GuardError, PolicyError
from mlguard.integrations.fastapi.blame import wrapper_of
from mlguard.integrations.fastapi.counts import Counts
from mlguard.integrations.fastapi.deadlines import DeadlineHeader
from mlguard.integrations.fastapi.health import Health
from mlguard.integrations.fastapi.middleware import GuardMiddleware
from mlguard.integrations.fastapi.problems import Problems
from mlguard.integrations.fastapi.routes import add_page, add_probe, is_fastapi, refuse_taken
from mlguard.integrations.fastapi.scrape import Scrape
from mlguard.wrapper import Wrapper

__all__ = ["Installed", "install"]


def install(
    app: Starlette,
    *,
    health: str | None = None,
    metrics: str | None = None,
    deadline_header: str | Collection[str] | None = None,
    trust: bool | str | Collection[str] = False,
    client_input: Collection[Callable[..., Any]] = (),
    statuses: Mapping[type[GuardError], int] | None = None,
    hold_streams: bool = True,
) -> None:
    """Answers mlguard's errors with their statuses, and adds what else is asked for.

    The bodies are ``application/problem+json``. An application's own handler for an error of mlguard's goes first, and
    applications that are mounted in this one are reached as well. Calling it again with the same settings does nothing.

    Args:
        app: A FastAPI or Starlette application that has answered nothing yet. Routes may come before and after.
        health: The path of the health page, such as ``"/mlguard"``; probes are at ``/mlguard/live`` and
            ``/mlguard/ready``. None: there is none, because it tells about the inside of the service whoever may see
            it. The page has the application's own dependencies, the probes have none.
        metrics: The path where Prometheus scrapes, such as ``"/metrics"``: what `prometheus_client`'s registry has, and
            mlguard's metrics. It has the application's own dependencies. None: there is none, because many
            applications have their own.
        deadline_header: The headers that say how much time is left for a request, such as ``"grpc-timeout"``,
            ``"X-Envoy-Expected-Rq-Timeout-Ms"`` or ``"X-Request-Deadline"`` with a value like ``800ms``. It bounds
            guarded functions with a timeout, retries, and `mlguard.time_left()`. None: none is read.
        trust: Who may set it: True for everybody, where a proxy in front sets or strips it; or addresses and networks
            of clients. Default: nobody, because who sets it decides when our work is given up.
        client_input: Guarded functions further in that are handed what the client sent as it is: input they refuse is
            the client's fault too. Default: that of path operations and dependencies only.
        statuses: Other statuses for classes of errors and those below them, such as ``{ConcurrencyLimitError: 503}``.
        hold_streams: The status of a stream waits for its first chunk, so that an error until then is still answered
            with its own. False: it is sent at once.

    Raises:
        ModuleNotFoundError: `metrics` is set, but the extra `prometheus` is not installed.
        PolicyError: A setting makes no sense, a path is taken, the application has begun to answer, or it was
            installed with other settings.
    """
    if not isinstance(app, Starlette):
        raise PolicyError(
            f"install() takes a FastAPI or Starlette application, not {type(app).__name__}. "
            "Fix: install(app), with the application itself and not what wraps it."
        )
    settings = {
        "health": health,
        "metrics": metrics,
        "deadline_header": deadline_header,
        "trust": trust,
        "client_input": tuple(client_input),
        "statuses": dict(statuses or {}),
        "hold_streams": hold_streams,
    }
    before: Installed | None = getattr(app.state, "mlguard", None)
    if before is not None:
        _refuse_difference(before.settings, settings)
        return
    if app.middleware_stack is not None:
        raise PolicyError(
            "install(): the application has begun to answer, so that nothing can be added to it. "
            "Fix: install before it is served, where its routes are declared."
        )
    installed = Installed(app, settings)
    installed.handle_errors(app)
    app.add_middleware(GuardMiddleware, installed=installed)
    app.state.mlguard = installed


class Installed:
    """What one application has of mlguard.

    Args:
        app: The application.
        settings: The arguments of `install`, by name.

    Raises:
        PolicyError: One of them makes no sense.
    """

    def __init__(self, app: Starlette, settings: Mapping[str, Any]) -> None:
        self.settings = settings
        self.counts = Counts()
        self.hold_streams: bool = settings["hold_streams"]
        names, trust = settings["deadline_header"], settings["trust"]
        if names is None and trust:
            raise PolicyError(
                "install(): trust is set, but no deadline_header. Fix: name the header, such as "
                "deadline_header='X-Request-Deadline', or drop trust."
            )
        self.deadline_header = None if names is None else DeadlineHeader(names, trust)
        self.problems = Problems(
            _statuses(settings["statuses"]), [_guarded(each) for each in settings["client_input"]], self.counts
        )
        self._app = app
        self._begun = False
        self._scrape = None if settings["metrics"] is None else Scrape()
        self._add_pages(app, settings["health"], settings["metrics"])

    def handle_errors(self, app: Starlette) -> None:
        """Sets the handler of mlguard's errors, where the application has none."""
        app.exception_handlers.setdefault(GuardError, self.problems.answer)
        if is_fastapi(app):
            from fastapi.exceptions import RequestValidationError

            from mlguard.integrations.fastapi import validation_errors

            if app.exception_handlers.get(RequestValidationError) is validation_errors.DEFAULT:
                app.exception_handlers[RequestValidationError] = validation_errors.answer

    def _add_pages(self, app: Starlette, health: str | None, metrics: str | None) -> None:
        for setting, path, below in (("health", health, ("", "/live", "/ready")), ("metrics", metrics, ("",))):
            for each in below if path is not None else ():
                refuse_taken(app, setting, f"{path}{each}" if each else path)
        if health is not None and health == metrics:
            raise PolicyError(f"install(): health and metrics are both {health!r}. Fix: a path for each.")
        if health is not None:
            pages = Health(self.counts)
            add_page(app, health, pages.page)
            add_probe(app, f"{health}/live", pages.live)
            add_probe(app, f"{health}/ready", pages.ready)
        if metrics is not None and self._scrape is not None:
            add_page(app, metrics, self._scrape.page)

    def begin(self) -> None:
        """In each process, before it serves: reaches the applications that are mounted in this one."""
        if self._begun:
            return
        self._begun = True
        if self._scrape is not None:
            self._scrape.start()
        for app in _mounted(self._app, []):
            if app.middleware_stack is None and getattr(app.state, "mlguard", None) is None:
                self.handle_errors(app)

    def end(self) -> None:
        """At the end of each process that served."""
        if self._scrape is not None:
            self._scrape.stop()


def _mounted(app: Starlette, seen: list[Starlette]) -> Iterator[Starlette]:
    seen.append(app)
    for route in app.routes:
        inner = getattr(route, "_base_app", None) or getattr(route, "app", None)
        if isinstance(inner, Starlette) and inner not in seen:
            yield inner
            yield from _mounted(inner, seen)


def _guarded(function: Callable[..., Any]) -> Wrapper:
    wrapper = wrapper_of(function)
    if wrapper is None:
        raise PolicyError(
            f"install(): client_input has {getattr(function, '__qualname__', function)!s}, which is not guarded. "
            "Fix: name guarded functions."
        )
    return wrapper


def _statuses(given: Mapping[Any, Any]) -> Mapping[type[GuardError], int]:
    for cls, status in given.items():
        if not (isinstance(cls, type) and issubclass(cls, GuardError)):
            raise PolicyError(
                f"install(): statuses has {cls!r}, which is no error of mlguard's. "
                "Fix: such as {ConcurrencyLimitError: 503}."
            )
        if isinstance(status, bool) or not isinstance(status, int) or not 400 <= status <= 599:
            raise PolicyError(
                f"install(): statuses has {status!r} for {cls.__name__}. Fix: an error's status, from 400 to 599."
            )
    return given


def _refuse_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    different = [name for name in now if now[name] != before[name]]
    if different:
        raise PolicyError(
            f"install(): the application was installed with another {' and '.join(different)}. "
            "Fix: call install() once, with all settings."
        )
