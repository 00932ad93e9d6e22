"""What a field may hold, as a question to a whole column: is every value surely right?

Each kind answers at column speed. A yes is final; after a no, `fields.py` looks again row by row, so that a kind may be
as careful as it likes. The bounds are compared as Python compares numbers, which is how pydantic does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from mlguard.validation.tables.columns import Array, Column

__all__ = ["Anything", "Choice", "Kind", "Number", "Temporal", "Text"]

_TINY = 32
"""Up to as many values, Python's own min and max beat the fixed cost of NumPy's reductions."""
_BLOCK = 2**17
"""Numbers that are compared at once: 1 MiB of them, which fits the level 2 cache."""

Accepts = Callable[[list[Any]], bool]
"""Whether pydantic accepts each of these values for the field."""


class Kind:
    """What a column must hold.

    Attributes:
        named: What a message calls the values.
        families: The families of typed columns that can be right.
    """

    named: str
    families: frozenset[str]

    def __init__(self, accepts: Accepts, *, nullable: bool) -> None:
        self.accepts = accepts
        self.nullable = nullable

    def passes(self, column: Column) -> bool:
        """Whether every value is surely right."""
        family = column.family
        if family in self.families:
            return self.holds(column)
        if family == "object":
            return self.accepts(column.objects())
        if family == "category":
            return (self.nullable or not column.nulls) and self.accepts(column.distinct())
        return family == "null" and self.nullable

    def holds(self, column: Column) -> bool:
        """The same for a column of a family that can be right."""
        raise NotImplementedError

    def wrong(self, column: Column) -> list[tuple[str, dict[str, Any], Array]] | None:
        """The rules that rows break, in pydantic's words, each with where; None: not known without pydantic."""
        return None


class Anything(Kind):
    """`Any`."""

    named = "anything"
    families = frozenset()

    def passes(self, column: Column) -> bool:
        return True


class Number(Kind):
    """int, float and bool, with ge, gt, le, lt, multiple_of and allow_inf_nan."""

    def __init__(self, accepts: Accepts, *, nullable: bool, named: str, strict: bool, rules: dict[str, Any]) -> None:
        super().__init__(accepts, nullable=nullable)
        self.named = named
        self.families = _NUMBERS[named, strict]
        self._rules = {rule: rules[rule] for rule in ("multiple_of", "le", "lt", "ge", "gt") if rule in rules}
        self._finite = rules.get("allow_inf_nan") is False
        self._multiple = rules.get("multiple_of")
        self.low, self.high = _ends(rules, whole=named != "float")
        if self._finite:
            largest = float(np.finfo(np.float64).max)
            self.low, self.high = max(self.low, -largest), min(self.high, largest)
        if named == "bool":
            self.low, self.high = 0, 1
        self._plain = named == "float" and self._multiple is None
        """Floats need no more than two reductions."""
        self._bounded = (self.low, self.high) != (-math.inf, math.inf)

    def holds(self, column: Column) -> bool:
        floats = column.family == "float"
        if not self.nullable and column.nulls:
            return False
        if not self._bounded and self._multiple is None and not floats:
            return True
        if floats and self._plain and (few := column.few()) and _is_finite(few):
            return bool(self.low <= min(few) and max(few) <= self.high)
        nan_is_null = column.nan_is_null
        for values in column.parts():
            if floats and self._plain:
                if not self._floats_within(values, nan_is_null=nan_is_null):
                    return False
            elif not self._holds(values, floats=floats, nan_is_null=nan_is_null):
                return False
        return True

    def _holds(self, values: Array, *, floats: bool, nan_is_null: bool) -> bool:
        multiple = self._multiple
        if floats:
            missing = np.isnan(values)
            if missing.any():
                if not (nan_is_null and self.nullable):
                    return False
                values = values[~missing]
            if self.named == "int" and not _whole(values):
                return False
            if self.named == "bool" and not ((values == 0) | (values == 1)).all():
                return False
        return self._within(values) and (multiple is None or not _remainders(values, multiple).any())

    def _within(self, values: Array) -> bool:
        size = values.size
        if not size or not self._bounded:
            return True
        if size <= _TINY:
            few = values.tolist()
            return bool(self.low <= min(few) and max(few) <= self.high)
        return self._in_blocks(values)

    def _floats_within(self, values: Array, *, nan_is_null: bool) -> bool:
        """Finds NaN and what is out of range at once: NaN propagates, and no comparison with it holds."""
        size = values.size
        if not size:
            return True
        passes_nan = nan_is_null and self.nullable
        if not self._bounded:
            return passes_nan or not nan_is_null or not math.isnan(np.minimum.reduce(values))
        if size <= _TINY:
            few = values.tolist()
            if _is_finite(few):
                return bool(self.low <= min(few) and max(few) <= self.high)
        if self._in_blocks(values):
            return True
        if not passes_nan:
            return False
        low, high = np.fmin.reduce(values).item(), np.fmax.reduce(values).item()
        return math.isnan(low) or bool(self.low <= low and high <= self.high)

    def _in_blocks(self, values: Array) -> bool:
        step = values.size if values.size <= 2 * _BLOCK else _BLOCK
        for start in range(0, values.size, step):
            part = values[start : start + step]
            if not (self.low <= np.minimum.reduce(part).item() and np.maximum.reduce(part).item() <= self.high):
                return False
        return True

    def wrong(self, column: Column) -> list[tuple[str, dict[str, Any], Array]] | None:
        if column.family not in ("int", "float") or column.family not in self.families or self.named == "bool":
            return None
        values = column.numbers()
        if column.family == "float":
            if self.named == "int":
                return None
            values = values.astype(np.float64, copy=False)  # a bound is compared with the value, not rounded to it
        rest = ~column.null_mask()
        found: list[tuple[str, dict[str, Any], Array]] = []
        if self._finite and column.family == "float":
            found.append(("finite_number", {}, rest & ~np.isfinite(values)))
            rest &= np.isfinite(values)
        for rule, bound in self._rules.items():
            broken = rest & ~_KEPT[rule](values, bound)
            found.append((_TYPES[rule], {rule: bound}, broken))
            rest &= ~broken
        return [entry for entry in found if entry[2].any()]


class Text(Kind):
    """str, with min_length, max_length and pattern; what is stripped or changed in case is left to pydantic."""

    named = "text"
    families = frozenset({"text"})

    def __init__(self, accepts: Accepts, *, nullable: bool, rules: dict[str, Any], config: dict[str, Any]) -> None:
        super().__init__(accepts, nullable=nullable)
        changed = any(
            rules.get(name, config.get(f"str_{name}")) for name in ("strip_whitespace", "to_lower", "to_upper")
        )
        self._least = rules.get("min_length", config.get("str_min_length", 0)) or 0
        self._most = rules.get("max_length", config.get("str_max_length"))
        engine = rules.get("regex_engine", config.get("regex_engine", "rust-regex"))
        pattern = rules.get("pattern")
        self._pattern = pattern if isinstance(pattern, str) and engine == "rust-regex" else None
        self._by_value = changed or (pattern is not None and self._pattern is None)
        self._free = not self._least and self._most is None and pattern is None

    def holds(self, column: Column) -> bool:
        if not self.nullable and column.nulls:
            return False
        if self._free:
            return True
        if self._by_value:
            return self.accepts(column.distinct())
        if self._pattern is not None:
            matches = column.matches(self._pattern)
            if matches is None:
                return self.accepts(column.distinct())
            if not matches:
                return False
        if not self._least and self._most is None:
            return True
        lengths = column.lengths()
        return lengths is None or (lengths[0] >= self._least and (self._most is None or lengths[1] <= self._most))


class Choice(Kind):
    """Literal and Enum: pydantic sees each value once."""

    named = "one of the values"
    families = frozenset({"bool", "int", "float", "text", "date", "datetime", "time", "duration", "decimal"})

    def holds(self, column: Column) -> bool:
        if not self.nullable and (column.nulls or (column.family == "float" and column.null_mask().any())):
            return False
        return self.accepts(column.distinct())


class Temporal(Kind):
    """date, datetime, time, timedelta and Decimal: where nothing but an order is asked for, two values tell all."""

    def __init__(self, accepts: Accepts, *, nullable: bool, named: str, strict: bool, ordered: bool) -> None:
        super().__init__(accepts, nullable=nullable)
        self.named = named
        self.families = _ORDERED[named, strict]
        self._ordered = ordered

    def holds(self, column: Column) -> bool:
        if column.family == "float":
            missing = np.isnan(column.present()).any()
            if missing and not (column.nan_is_null and self.nullable):
                return False
            if missing:
                return self.accepts(column.distinct())
        if not self.nullable and column.nulls:
            return False
        if not self._ordered or (self.named == "date" and column.family == "datetime"):
            return self.accepts(column.distinct())
        ends = column.extremes()
        return ends is None or self.accepts(list(ends))


_NUMBERS = {
    ("int", False): frozenset({"int", "float", "bool"}),
    ("int", True): frozenset({"int"}),
    ("float", False): frozenset({"int", "float", "bool"}),
    ("float", True): frozenset({"int", "float"}),
    ("bool", False): frozenset({"int", "float", "bool"}),
    ("bool", True): frozenset({"bool"}),
}
_ORDERED = {
    ("date", False): frozenset({"date", "datetime"}),
    ("date", True): frozenset({"date"}),
    ("datetime", False): frozenset({"datetime", "date"}),
    ("datetime", True): frozenset({"datetime"}),
    ("time", False): frozenset({"time"}),
    ("time", True): frozenset({"time"}),
    ("timedelta", False): frozenset({"duration"}),
    ("timedelta", True): frozenset({"duration"}),
    ("decimal", False): frozenset({"decimal", "int", "float"}),
    ("decimal", True): frozenset({"decimal"}),
}
_TYPES = {
    "multiple_of": "multiple_of",
    "le": "less_than_equal",
    "lt": "less_than",
    "ge": "greater_than_equal",
    "gt": "greater_than",
}


def _multiple(values: Array, of: Any) -> Array:
    kept: Array = ~_remainders(values, of)
    return kept


_KEPT: dict[str, Callable[[Array, Any], Array]] = {
    "multiple_of": _multiple,
    "le": np.less_equal,
    "lt": np.less,
    "ge": np.greater_equal,
    "gt": np.greater,
}


def _remainders(values: Array, of: Any) -> Array:
    """Where a value is no multiple; of floats within pydantic's tolerance."""
    if values.dtype.kind in "iub" and isinstance(of, int):
        whole = values.astype(np.int64) if values.dtype.itemsize < 8 else values
        beyond = abs(of) > np.iinfo(whole.dtype).max  # then only 0 is a multiple
        broken: Array = np.not_equal(whole if beyond else whole % abs(of), 0)
        return broken
    values = values.astype(np.float64, copy=False)
    with np.errstate(invalid="ignore"):
        rest = np.abs(np.fmod(values, of))
        tolerance = np.abs(values) / 1e9
        wrong: Array = (rest > tolerance) & (np.abs(rest - of) > tolerance)
    return wrong


def _is_finite(few: list[Any]) -> bool:
    """Neither NaN, which Python's min and max don't tell, nor infinite."""
    total = sum(few)
    return bool(total - total == 0)


def _whole(values: Array) -> bool:
    """Whole numbers of a size that every reader of floats takes for whole ones."""
    if not values.size:
        return True
    return bool(np.abs(values).max() < 2**63 and (np.trunc(values) == values).all())


def _ends(rules: dict[str, Any], *, whole: bool) -> tuple[Any, Any]:
    """The least and the greatest number that keep the rules."""
    low: Any = -math.inf
    high: Any = math.inf
    if "ge" in rules:
        low = rules["ge"]
    if "gt" in rules:
        low = max(low, rules["gt"] + 1 if whole else math.nextafter(rules["gt"], math.inf))
    if "le" in rules:
        high = rules["le"]
    if "lt" in rules:
        high = min(high, rules["lt"] - 1 if whole else math.nextafter(rules["lt"], -math.inf))
    return low, high
