"""The settings of the result cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeAlias

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)

from mlguard import clock
from mlguard.resilience.error_paths import error_at, path_of
from mlguard.section import Section, nearest

__all__ = ["Cache"]

_METHODS = ("get_many", "put_many", "lease", "release", "discard", "info", "close")


def _expiry(value: float | str | None) -> float | None:
    if value is None:
        return None
    seconds = clock.seconds(value)
    if not seconds:
        raise ValueError("must be longer than 0. Fix: leave the cache out (cache=False) to cache nothing")
    return seconds


def _some_bytes(value: int | str) -> int:
    size = clock.bytes_of(value)
    if not size:
        raise ValueError("must be more than 0. Fix: leave the cache out (cache=False) to cache nothing")
    return size


class _Url(str):
    """A store's URL, which is never shown with its password."""

    __slots__ = ()

    def __repr__(self) -> str:
        from mlguard.cache.stores.urls import shown_url  # not at import: most caches are in memory

        return repr(shown_url(str(self)))


def _store(given: Any) -> Any:
    """A store: "memory", the URL of one, or an object with the methods of one."""
    if isinstance(given, str):
        from mlguard.cache.stores.urls import SCHEMES

        scheme, found, _ = given.partition("://")
        if given != "memory" and not (found and scheme in SCHEMES):
            hint = nearest(scheme if found else given, ["memory", *SCHEMES])
            raise ValueError(f'must be "memory", {", ".join(SCHEMES.values())}, or a store object.{hint}')
        return _Url(given)
    missing = [name for name in _METHODS if not callable(getattr(given, name, None))]
    if isinstance(given, type) or missing:
        raise ValueError(
            'must be "memory", "sqlite:///path/to/file.db", "redis://host:6379/0", or an object with the methods of '
            f"mlguard.cache.stores.Store; {type(given).__name__} has no {', '.join(missing) or 'instance'}"
        )
    if not isinstance(getattr(given, "largest", None), int):
        raise ValueError(
            f"must say in an attribute 'largest' how many bytes one payload may have; {type(given).__name__} does not"
        )
    return given


def _errors(given: Any) -> tuple[type[Exception] | Literal["transient"], ...]:
    """Exception classes, their import paths, or "transient", as a tuple."""
    if isinstance(given, str | type):
        given = (given,)
    if not isinstance(given, Sequence):
        raise ValueError("must be 'transient', an exception class, its import path, or a list of these")
    return tuple(_error(each) for each in given)


def _error(given: Any) -> type[Exception] | Literal["transient"]:
    if given == "transient":
        return "transient"
    error = error_at(given) if isinstance(given, str) else given
    if not (isinstance(error, type) and issubclass(error, Exception)):
        raise ValueError("must hold classes that derive from Exception: a cancellation is nobody else's affair")
    return error


def _classes_only(given: Any) -> tuple[type[Exception], ...]:
    errors = _errors(given)
    if "transient" in errors:
        raise ValueError(
            "must hold exception classes: a failure that may pass at the next call should not be remembered. "
            "Fix: name the errors that the same arguments meet again, such as 'LookupError'"
        )
    return errors  # type: ignore[return-value]


def _paths(errors: Any) -> list[str]:
    return [each if isinstance(each, str) else path_of(each) for each in errors]


def _shown_store(store: Any) -> str:
    if not isinstance(store, str):
        return type(store).__qualname__
    from mlguard.cache.stores.urls import shown_url

    return shown_url(store)


_PATHS = WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})

if TYPE_CHECKING:
    _Errors: TypeAlias = str | type[Exception] | Sequence[str | type[Exception]]
    _Classes: TypeAlias = str | type[Exception] | Sequence[str | type[Exception]]
    _Store: TypeAlias = Any
else:
    _Errors = Annotated[Any, PlainValidator(_errors), PlainSerializer(_paths, when_used="json"), _PATHS]
    _Classes = Annotated[Any, PlainValidator(_classes_only), PlainSerializer(_paths, when_used="json"), _PATHS]
    _Store = Annotated[
        Any,
        PlainValidator(_store),
        PlainSerializer(_shown_store, when_used="json"),
        WithJsonSchema({"type": "string", "pattern": r"^(memory$|(sqlite|rediss?|valkeys?)://)"}),
    ]


class Cache(Section):
    """Remembers checked results by their validated arguments, and lets concurrent equal calls share one run.

    ``Cache(ttl="30s")`` answers an equal call from memory for 30 seconds. Keys are exact: two calls share a result only
    where every argument has the same type and the same bits. Results come back as copies or read-only arrays, so that
    no caller can change what another one gets.

    Raises:
        PolicyError: A key is unknown or a value impossible; the message names the field, the value and the fix.
    """

    ttl: Annotated[
        float | str | None,
        BeforeValidator(_expiry),
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": "number", "exclusiveMinimum": 0},
                    {"type": "string", "pattern": r"^\d+(\.\d+)?\s*(ms|s|m|h|d)$"},
                    {"type": "null"},
                ]
            }
        ),
    ]
    """The longest time a result may be served after it was computed, in seconds or as "30s". Required, because only you
    know how long a prediction stays true; None: until it is evicted."""
    max_entries: int = Field(default=10_000, gt=0)
    """Results kept in this process at most; the ones not asked for lately go first. 10,000 small results are a few
    megabytes. With rows=True each row is an entry."""
    max_bytes: Annotated[clock.Size, AfterValidator(_some_bytes)] = "256MiB"
    """Estimated bytes of results and keys kept in this process at most. A single larger result is handed on but not
    kept."""
    rows: bool = False
    """True: the rows of a batch are cached one by one, and a call computes only those it has not seen. Right only where
    a row's result does not depend on the other rows; the batch arguments are declared as guarded(rows=...)."""
    store: _Store = "memory"
    """Where results lie: "memory" is this process; "sqlite:///path/to/file.db" is shared by the processes of a machine,
    "redis://host:6379/0" by machines. A shared store needs a model_version, and keeps a front in memory as well."""
    stale_while_revalidate: clock.Duration = 0
    """Seconds after `ttl` in which an expired result is still served, at once, while one call in the background
    computes a new one. 0: never."""
    stale_if_error: clock.Duration = 0
    """Seconds after `ttl` in which an expired result is served where computing a new one fails with an error of
    `stale_on`. 0: never."""
    stale_on: _Errors = ("transient",)
    """The failures that `stale_if_error` covers: "transient" (lost connections, timeouts, HTTP 408, 425, 429, 5xx, and
    calls refused here by breaker, concurrency or memory), exception classes, or their import paths."""
    negative_ttl: clock.Duration = 0
    """Seconds for which a failure of `negative_on` is remembered and raised again, in this process. 0: failures are
    never kept."""
    negative_on: _Classes = ()
    """The exception classes, or their import paths, that `negative_ttl` remembers: those that the same arguments would
    meet again, such as "LookupError"."""
    jitter: float = Field(default=0.1, ge=0, lt=1)
    """The share of `ttl` by which an entry may expire early, at random, so that entries made together don't expire
    together. 0.1 spreads a burst over a tenth of its lifetime; nothing fresh is served after `ttl`."""
    on_hit: Literal["readonly", "copy"] = "readonly"
    """How arrays come back from the cache: "readonly" shares one buffer that nobody can make writable, "copy" gives
    every caller a writable array of its own, for the price of copying it. Lists, dicts and models are always copies."""
    tenant: str | None = Field(default=None, pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")
    """The argument that names the customer a result belongs to, such as "customer_id", or the field of one, such as
    "request.customer_id". It is part of the key even where it is marked NotKeyed, and a customer's results can be
    dropped together. None: there are no tenants."""
    scope: str | None = Field(default=None, min_length=1)
    """Functions whose caches name the same scope share one store, its bounds included, but never each other's
    results. None: a store for each function."""

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        stale = [name for name in ("stale_while_revalidate", "stale_if_error") if getattr(self, name)]
        if stale and self.ttl is None:
            raise ValueError(
                f"{stale[0]} = {clock.duration_text(getattr(self, stale[0]))}: nothing is ever stale with ttl = None. "
                f'Fix: give a ttl, such as ttl = "30s", or drop {stale[0]}'
            )
        if self.negative_ttl and not self.negative_on:
            raise ValueError(
                f"negative_ttl = {clock.duration_text(clock.seconds(self.negative_ttl))}: no error is named that it "
                "could remember. Fix: name them, such as negative_on = ['LookupError']"
            )
        if self.negative_on and not self.negative_ttl:
            raise ValueError("negative_on is set, but negative_ttl = 0 remembers no failure. Fix: give it a time")
        if "stale_on" in self.model_fields_set and not self.stale_if_error:
            raise ValueError("stale_on is set, but stale_if_error = 0 serves nothing stale. Fix: give it a time")
        if self.stale_if_error and not self.stale_on:
            raise ValueError("stale_if_error is set, but stale_on names no error. Fix: name some, or drop it")
        for name in (*stale, "negative_ttl"):
            if self.rows and getattr(self, name):
                raise ValueError(
                    f"rows = True with {name}: a batch fails or is refreshed as a whole, its rows are kept one by one. "
                    f"Fix: drop {name}, or rows"
                )
        return self
