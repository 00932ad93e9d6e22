"""From data to the class that describes it, as Python text: a starting point for the people who know what it means.

Observed ranges are widened by a margin, a tenth of their span on either side, because the next batch will go beyond
this one; a range never crosses zero for it, and one of whole numbers narrower than ten, as labels have, stays.
Categories are listed where there are few; dates get no range, because the next ones are later. Every field says in a
comment what was observed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from keyword import iskeyword
from pathlib import Path
from typing import Any

import numpy as np

from mlguard.contracts.naming import class_name, identifier, quoted, shown
from mlguard.contracts.observed import Column, Table, columns_differ, finite, is_text, limits
from mlguard.contracts.sources import observe, observe_file
from mlguard.contracts.subject import ContractError, load

__all__ = ["infer", "infer_from"]

_FEW = 20
"""At most so many texts are listed as categories,"""
_OFTEN = 5
"""where each came so often on average."""
_LONGEST = 64
"""A text longer than this is none of a list's."""
_LABELS = 10
"""Whole numbers in a range narrower than this are labels, codes or flags: their range is not widened."""
_HUGE = 2**100
"""Whole numbers beyond get no range."""
_LARGEST = int(np.finfo(np.float64).max)
_TYPES = {
    "date": "datetime.date",
    "datetime": "datetime.datetime",
    "time": "datetime.time",
    "timedelta": "datetime.timedelta",
    "other": "Any",
}


def infer(
    source: str,
    *,
    name: str | None = None,
    margin: float = 0.1,
    encoding: str = "utf-8-sig",
    delimiter: str | None = None,
    progress: Callable[[int], None] = lambda rows: None,
) -> str:
    """The text of a class that accepts what the source holds.

    Args:
        source: A file (.csv, .tsv, .jsonl, .ndjson, .parquet, .npy), or ``module:name`` of an array or a table.
        name: What the class is called. None: after the source.
        margin: By which share of its span an observed range is widened on either side; 0 for just what was there.
        encoding: How a text file is written.
        delimiter: What stands between the cells of a CSV file. None: the one of ``, ; | tab`` its header has most of.
        progress: Called with the number of rows so far, every 10,000 rows of a file.

    Raises:
        ContractError: The source can't be read or has nothing in it.
    """
    if not (math.isfinite(margin) and margin >= 0):
        raise ContractError(f"margin = {margin} is no share of a range. Fix: such as 0.1, or 0 for none.")
    path = Path(source)
    data: Any
    if path.exists() or ":" not in source:
        if not path.exists():
            raise ContractError(f"there is no file {source}. Fix: check the name, or say module:name for data in code.")
        data = observe_file(path, progress, encoding=encoding, delimiter=delimiter)
        stem = path.stem
    else:
        data = load(source)
        stem = source.rpartition(":")[2].rpartition(".")[2]
    return infer_from(data, source=source, name=name or class_name(stem), margin=margin)


def infer_from(data: Any, *, source: str = "data", name: str = "Row", margin: float = 0.1) -> str:
    """The text of a class that accepts data in memory: an array, or a table as `infer` takes them."""
    if not name.isidentifier() or iskeyword(name):
        raise ContractError(f"{name!r} can't be the name of a class. Fix: --name Patient, or the like.")
    observed = data if isinstance(data, Table) else observe(data, source)
    writer = _Writer(margin)
    if isinstance(observed, Table):
        said = f"{observed.rows:,} rows, {len(observed.columns)} columns"
        writer.table(observed, name, f"One row of {shown(source)}.")
    else:
        said = f"shape {observed.shape}, {observed.dtype}"
        writer.array(observed, name, f"An array like {shown(source)}.")
    return writer.text(f"# Learnt from {shown(source)}: {said}. A start: say what you know better.")


class _Writer:
    """Collects classes and what they import."""

    def __init__(self, margin: float) -> None:
        self._margin = margin
        self._classes: list[str] = []
        self._taken: set[str] = set()
        self._imports: set[str] = set()

    def text(self, head: str) -> str:
        """The module."""
        body = "\n\n\n".join(self._classes)
        plain = [line for line in ("datetime",) if f"{line}." in body]
        lines = [f"import {line}" for line in plain]
        lines += ["from decimal import Decimal"] if re.search(r"\bDecimal\b", body) else []
        typing = sorted(word for word in ("Annotated", "Any", "Literal") if re.search(rf"\b{word}\b", body))
        lines += [f"from typing import {', '.join(typing)}"] if typing else []
        arrays = ["import numpy as np", "import numpy.typing as npt"] if "npt." in body else []
        arrays = ["import numpy as np"] if "np.ndarray" in body and not arrays else arrays
        pydantic = [word for word in ("BaseModel", "ConfigDict", "Field") if re.search(rf"\b{word}\b", body)]
        blocks = [lines, [*arrays, f"from pydantic import {', '.join(pydantic)}"]]
        blocks += [["from mlguard import Array"]] if "Array(" in body else []
        return "\n\n".join([head, *("\n".join(block) for block in blocks if block)]) + "\n\n\n" + body + "\n"

    def table(self, table: Table, name: str, what: str) -> str:
        """Adds the class of a table's rows and returns its name."""
        name = self._free(name)
        taken = set(table.columns)
        self._taken |= taken  # a class of a field's name would be hidden by the field's default
        lines, aliased = [], False
        for number, (column, observed) in enumerate(table.columns.items(), start=1):
            if not is_text(column):
                raise ContractError(f"the name of column {number} is no text. Fix: rename it.")
            field = identifier(column, number, taken)
            taken.add(field)
            kind, settings, comment = self._field(observed, f"{name}{class_name(field)}")
            if field != column:
                settings = {"alias": quoted(column), **settings}
                aliased = True
            if observed.missing and kind != "Any":
                kind = f"{kind} | None"
            marks = ", ".join(f"{key}={value}" for key, value in settings.items())
            annotation = f"Annotated[{kind}, Field({marks})]" if marks else kind
            default = " = None" if observed.missing else ""
            lines += [f"    # {comment}", f"    {field}: {annotation}{default}"]
        head = [f"class {name}(BaseModel):", f'    """{what}"""', ""]
        if aliased:
            head += ["    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)", ""]
        self._classes.append("\n".join([*head, *(lines or ["    pass"])]))
        return name

    def array(self, array: np.ndarray[Any, Any], name: str, what: str) -> None:
        """Adds a class with one array."""
        if array.dtype.kind not in "biufcSUMm":
            raise ContractError(
                f"an array of {array.dtype} can't be declared. Fix: convert it to numbers, texts or times."
            )
        shape = ["batch", *array.shape[1:]] if array.ndim else []
        settings = [quoted(entry) if isinstance(entry, str) else str(entry) for entry in shape]
        comment = f"{array.dtype}, shape {array.shape}"
        if array.dtype.kind in "fc":
            finite = np.isfinite(array)
            nan = int(np.isnan(array).sum())
            if finite.all():
                settings.append("finite=True")
            else:
                comment += f", {nan} NaN, {int((~finite).sum()) - nan} infinite"
        if array.dtype.kind in "iuf":
            found, values = self._array_range(array)
            settings += found
            comment += values
        flexible = {"S": "np.bytes_", "U": "np.str_"}.get(array.dtype.kind)
        if array.dtype.kind in "Mm":
            kind = "np.ndarray"
            settings.append(f"dtype={quoted(str(array.dtype))}")
        elif array.dtype.isnative or flexible:
            kind = f"npt.NDArray[{flexible or _scalar_name(array.dtype)}]"
        else:
            kind = "np.ndarray"
            settings.append(f"dtype={quoted(array.dtype.str)}")
        lines = [f"class {name}(BaseModel):", f'    """{what}"""', "", f"    # {comment}"]
        self._classes.append("\n".join([*lines, f"    values: Annotated[{kind}, Array({', '.join(settings)})]"]))

    def _array_range(self, array: np.ndarray[Any, Any]) -> tuple[list[str], str]:
        there = finite(array)
        if not there.size:
            return [], ""
        parts = [array[:, number] for number in range(array.shape[1])] if columns_differ(array) else [array]
        ends = [self._ends_of(part) for part in parts]
        settings = []
        for name, side in (("ge", [low for low, _ in ends]), ("le", [high for _, high in ends])):
            if any(bound is not None for bound in side):
                settings.append(f"{name}={side if len(parts) > 1 else side[0]!r}")
        if settings and array.dtype.kind == "f" and bool(np.isnan(array).any()):
            settings.append("allow_nan=True")
        return settings, f", {_figure(there.min().item())} to {_figure(there.max().item())}"

    def _ends_of(self, array: np.ndarray[Any, Any]) -> tuple[Any, Any]:
        """The least and the greatest value, widened; None for an end that is open."""
        there = finite(array)
        if not there.size:
            return None, None
        least, most = self._widened(there.min().item(), there.max().item())
        floats = array.dtype.kind == "f"
        lowest, highest = limits(array.dtype)
        # Beyond what the dtype holds a bound says nothing.
        least = None if least is None or least < lowest or (floats and bool((array == -np.inf).any())) else least
        most = None if most is None or most > highest or (floats and bool((array == np.inf).any())) else most
        return least, most

    def _field(self, column: Column, nested: str) -> tuple[str, dict[str, str], str]:
        """Type, settings of Field and comment of one column."""
        kinds = _merged(column)
        gone = f"{column.missing:,} missing" if column.missing else "none missing"
        if not kinds:
            return "Any", {}, "always missing" if column.missing else "never there"
        types: list[str] = []
        settings: dict[str, str] = {}
        said: list[str] = []
        for kind in kinds:
            if kind == "dict" and column.fields is not None:
                types.append(self.table(column.fields, nested, "A part of it."))
            elif kind == "list" and column.items is not None:
                types.append(self._list(column.items, nested))
            elif kind == "Decimal" and column.infinite:
                types.append("Annotated[Decimal, Field(allow_inf_nan=True)]")
            else:
                types.append(_TYPES.get(kind, kind))
        if kinds == ["str"] and (categories := _categories(column)):
            counts = ", ".join(f"{shown(text)} {count:,}x" for text, count in categories[:5])
            more = f", and {len(categories) - 5} more" if len(categories) > 5 else ""
            listed = ", ".join(quoted(text) for text in sorted(text for text, _ in categories))
            return f"Literal[{listed}]", {}, f"{column.count:,} texts: {counts}{more}; {gone}"
        if len(kinds) == 1:
            settings, said = self._settings(kinds[0], column)
        what = " or ".join({"str": "text", "dict": "object", "other": "else"}.get(kind, kind) for kind in kinds)
        return " | ".join(dict.fromkeys(types)), settings, "; ".join([f"{column.count:,} {what}", *said, gone])

    def _list(self, items: Column, nested: str) -> str:
        kind, settings, _ = self._field(items, nested)
        if items.missing and kind != "Any":
            kind = f"{kind} | None"
        marks = ", ".join(f"{key}={value}" for key, value in settings.items())
        return f"list[Annotated[{kind}, Field({marks})]]" if marks else f"list[{kind}]"

    def _settings(self, kind: str, column: Column) -> tuple[dict[str, str], list[str]]:
        settings: dict[str, str] = {}
        said: list[str] = []
        low, high = column.low, column.high
        if kind in ("int", "float") and low is not None:
            said.append(f"{_figure(low)} to {_figure(high)}" if low != high else f"always {_figure(low)}")
            said += [f"{column.nan:,} NaN"] if column.nan else []
            said += [f"{column.infinite:,} infinite"] if column.infinite else []
            if not column.nan and not column.infinite and max(abs(low), abs(high)) < _HUGE:  # a bound would refuse them
                whole = kind == "int"
                least, most = self._widened(int(low), int(high)) if whole else self._widened(float(low), float(high))
                settings |= {} if least is None else {"ge": repr(least)}
                settings |= {} if most is None else {"le": repr(most)}
        elif kind in ("date", "datetime", "Decimal") and low is not None:
            said.append(f"{low} to {high}")
        elif kind in ("str", "bytes", "list") and column.lengths is not None:
            least, most = column.lengths
            said.append(
                f"{least:,} to {most:,} {'items' if kind == 'list' else 'letters' if kind == 'str' else 'bytes'}"
            )
            settings |= {"min_length": "1"} if least else {}
            settings["max_length"] = str(_longer(most, self._margin))
            if kind == "str" and column.distinct is not None:
                said.append(f"{len(column.distinct)} distinct")
        return settings, said

    def _widened(self, low: Any, high: Any) -> tuple[Any, Any]:
        """The range and its margin, in round numbers; None for an end nobody could say."""
        if low == high == 0:
            return low, None
        span = abs(low) if low == high else high - low
        if isinstance(low, float) and not math.isfinite(span):
            return None, None
        if isinstance(low, int) and span < _LABELS:
            return low, high
        extra = math.ceil(span * self._margin) if isinstance(low, int) else span * self._margin
        if not extra:
            return low, high
        least, most = low - extra, high + extra
        if isinstance(low, float):
            if not (math.isfinite(least) and math.isfinite(most)):
                return None, None
            step = 10.0 ** math.floor(math.log10(extra)) if extra > 1e-300 else 0
            if step and math.isfinite(most / step):
                places = max(0, -math.floor(math.log10(step)))
                least, most = (
                    round(math.floor(least / step) * step, places),
                    round(math.ceil(most / step) * step, places),
                )
        least, most = min(least, low), max(most, high)
        zero = type(low)(0)
        return (max(least, zero) if low >= 0 else least), (min(most, zero) if high <= 0 else most)

    def _free(self, name: str) -> str:
        number = 2
        made = name
        while made in self._taken:
            made, number = f"{name}{number}", number + 1
        self._taken.add(made)
        return made


def _merged(column: Column) -> list[str]:
    """The kinds of a column, where one covers another only that one; the narrow ones first."""
    kinds = set(column.kinds)
    huge = any(isinstance(end, int) and abs(end) > _LARGEST for end in (column.low, column.high))
    if {"int", "float"} <= kinds and not huge:
        kinds -= {"int"}
    texts = kinds & {"date text", "datetime text"}
    kinds -= texts
    if "str" not in kinds:  # otherwise they are texts like the others
        kinds |= {text.partition(" ")[0] for text in texts}
    if {"date", "datetime"} <= kinds:
        kinds -= {"date"}
    if column.from_cells and len(kinds) > 1:
        kinds = {"str"}
    order = [
        "bool",
        "int",
        "float",
        "Decimal",
        "datetime",
        "date",
        "time",
        "timedelta",
        "str",
        "bytes",
        "list",
        "dict",
        "other",
    ]
    return [kind for kind in order if kind in kinds]


def _categories(column: Column) -> list[tuple[str, int]]:
    """The few texts of a column and how often each came, the most frequent first."""
    distinct = column.distinct
    if distinct is None or not 1 < len(distinct) <= _FEW or sum(distinct.values()) < _OFTEN * len(distinct):
        return []
    return distinct.most_common() if all(len(text) <= _LONGEST for text in distinct) else []


def _longer(most: int, margin: float) -> int:
    """The next power of two above the longest and its margin, 8 at least."""
    if not margin:
        return most
    return int(max(8, 2 ** math.ceil(math.log2(max(1, most * (1 + margin))))))


def _figure(value: float) -> str:
    if isinstance(value, int) and abs(value) >= _HUGE:
        return f"a number of {int(math.log10(abs(value))) + 1:,} digits"
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def _scalar_name(dtype: np.dtype[Any]) -> str:
    return "np.bool_" if dtype.kind == "b" else f"np.{dtype.name}"
