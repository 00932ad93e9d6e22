"""`profile`: from training data to a `Profile`."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, Final

import numpy as np

from mlguard.drift.bins import absent, kind_of, number_edges
from mlguard.drift.columns import Column, columns_of
from mlguard.drift.correlation import design_effect
from mlguard.drift.errors import ProfileError
from mlguard.drift.reference import Category, FieldReference, Profile, finite
from mlguard.section import nearest

__all__ = ["profile"]

LEAST: Final = 50
"""Rows below which no profile is made: a decile would have fewer than five, where a chi-square test means little."""

ENOUGH: Final = 1_000
"""Rows from which the reference's own noise stays below that of a window of 400."""

_TOP: Final = 20  # categories with a cell of their own
_KNOWN: Final = 1_000  # categories that are listed at all
_LONGEST: Final = 200  # characters of a category; a longer one is text
_FREE: Final = 0.5  # the share of different values from which texts are ids or free text


def profile(
    data: Any,
    predictions: Any = None,
    *,
    schema: Any = None,
    columns: Sequence[str] | None = None,
    categorical: Collection[str] = (),
    exclude: Collection[str] = (),
    bins: int = 10,
    blocks: Sequence[int] = (100, 400),
) -> Profile:
    """The reference distribution of a model, from the data it was trained on.

    Args:
        data: The inputs, **in the order in which rows came**: a two-dimensional array, a dict of columns, a frame of
            pandas, polars or pyarrow, a structured array, or a list of dicts or models. Names are those of the
            function's arguments, or of fields or columns of one. A column may be an array of several columns.
        predictions: What the model says to these rows: numbers, labels, an array of probabilities, or columns.
        schema: The input class or guarded function. Fields it hides are left out, and a function whose schema has
            become another one refuses the profile.
        columns: Names for the columns of an array.
        categorical: Columns of numbers that are codes: each number is a category, and order means nothing.
        exclude: Columns that are not watched.
        bins: Quantile bins of a field of numbers. Ten: fewer miss changes of shape, more need more rows.
        blocks: Rows of the contiguous blocks from which it is learnt how alike neighbouring rows are. The same lengths
            as the windows of serving; a block counts where there are ten of them. Shuffled rows look independent:
            then give `Drift(design_effect=...)`.

    Raises:
        ProfileError: The data is empty, too small, or no table; or nothing in it can be watched.
    """
    if not 2 <= bins <= 100:
        raise ProfileError(f"bins = {bins}: must be from 2 to 100. Fix: leave it at 10.")
    if not blocks or min(blocks) < 2:
        raise ProfileError(f"blocks = {list(blocks)}: must be numbers of rows, at least 2. Fix: leave it out.")
    inputs = columns_of(data, "data", columns)
    outputs = _outputs(predictions)
    rows = len(inputs[0].values)
    _refuse_rows(rows, outputs)
    hidden: frozenset[str] = frozenset()
    contract = None
    if schema is not None:
        from mlguard.drift.contract import contract_of, hidden_names

        contract, hidden = contract_of(schema), hidden_names(schema)
    taken = {column.name for column in (*inputs, *outputs)}
    for option, wanted in (("categorical", categorical), ("exclude", exclude)):
        for name in wanted:
            if name not in taken and not any(name == column.path for column in inputs):
                raise ProfileError(f"{option}: there is no column {name!r}.{nearest(name, taken)} Fix: name a column.")
    fields, left_out = [], {}
    for role, column in [("input", one) for one in inputs] + [("output", one) for one in outputs]:
        if {column.name, column.path} & set(exclude):
            left_out[column.name] = "excluded"
        elif hidden & set(column.path.split(".")):
            left_out[column.name] = "the schema hides it"
        else:
            is_code = bool({column.name, column.path} & set(categorical))
            made = _field(column, role, bins, tuple(blocks), is_code=is_code)
            if isinstance(made, FieldReference):
                fields.append(made)
            else:
                left_out[column.name] = made
    if not fields:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in [*left_out.items()][:5])
        raise ProfileError(
            f"nothing in the data can be watched ({reasons}). Fix: give columns of numbers or categories."
        )
    if rows < ENOUGH:
        warnings.warn(
            f"a profile of {rows:,} rows knows little: shifts show late or not at all. Fix: give {ENOUGH:,} or more.",
            stacklevel=2,
        )
    return Profile(rows=rows, fields=tuple(fields), contract=contract, left_out=left_out)


def _outputs(predictions: Any) -> list[Column]:
    if predictions is None:
        return []
    found = columns_of(predictions, "predictions")
    return [
        Column(f"output.{column.path}" if column.path else "output", column.index, column.values, None, column.width)
        for column in found
    ]


def _refuse_rows(rows: int, outputs: list[Column]) -> None:
    if rows < LEAST:
        raise ProfileError(
            f"{rows} rows are too few for a profile: at least {LEAST} are needed, and {ENOUGH:,} or more are better. "
            "Fix: give all of the training data."
        )
    if outputs and len(outputs[0].values) != rows:
        raise ProfileError(
            f"there are {rows:,} rows of data and {len(outputs[0].values):,} predictions. "
            "Fix: give the predictions for exactly these rows."
        )


def _field(column: Column, role: Any, bins: int, blocks: tuple[int, ...], *, is_code: bool) -> FieldReference | str:
    """The reference of one column, or why there is none."""
    about: dict[str, Any] = {"name": column.name, "role": role, "path": column.path}
    about |= {"index": column.index, "width": column.width}
    values = column.values
    if isinstance(values, np.ndarray):
        if values.dtype.kind in "mM":
            return "times never repeat"
        if values.dtype.kind in "iuf" and not is_code:
            return _numbers(about, values, values, blocks, bins)
        if values.dtype.kind == "c":
            return "complex numbers have no order"
        values = values.tolist()
    kinds = {kind_of(value) for value in values} - {None}
    if "other" in kinds:
        odd = next(type(value).__name__ for value in values if kind_of(value) == "other")
        return f"it holds values of type {odd}"
    if kinds == {"number"} and not is_code:
        return _numbers(about, values, _floats(values), blocks, bins)
    counted = Counter(_category(value) for value in values if not absent(value))
    if kinds == {"text"} and (
        any(len(str(value)) > _LONGEST for value in counted) or len(counted) > max(_TOP, _FREE * counted.total())
    ):
        lengths = np.array([math.nan if absent(value) else len(value) for value in values])
        return _numbers(about | {"kind": "length"}, values, lengths, blocks, bins)
    return _categories(about, values, counted, blocks)


def _numbers(about: dict[str, Any], raw: Any, values: Any, blocks: tuple[int, ...], bins: int) -> FieldReference | str:
    there = values[np.isfinite(values)]
    if not len(there):
        return "it holds no finite number"
    exact = there.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        mean, spread = finite(exact.mean()), finite(exact.std())
    edges = tuple(number_edges(exact, bins))
    kind = about.pop("kind", "number")
    between = np.array(edges[1:]).searchsorted(exact, side="left")
    with np.errstate(over="ignore"):  # sums of numbers near the end of floats
        centres = np.bincount(between, exact / len(exact)) / np.bincount(between) * len(exact)
    centres = np.clip(centres, edges[:-1], edges[1:])
    shape = {**about, "kind": kind, "edges": edges, "centres": tuple(centres.tolist()), "mean": mean, "spread": spread}
    return _counted(shape, raw, len(np.unique(exact)), blocks, 3 + len(edges))


def _categories(about: dict[str, Any], values: Any, counted: Counter[Any], blocks: tuple[int, ...]) -> FieldReference:
    ranked = sorted(counted, key=lambda value: (-counted[value], type(value).__name__, str(value)))
    open_ended = len(ranked) > _KNOWN
    shape = {
        **about,
        "kind": "category",
        "categories": tuple(ranked[:_TOP]),
        "rare": () if open_ended else tuple(ranked[_TOP:]),
        "open_ended": open_ended,
    }
    return _counted(shape, values, len(ranked), blocks, min(len(ranked), _TOP) + 3)


def _counted(shape: dict[str, Any], values: Any, distinct: int, blocks: tuple[int, ...], cells: int) -> FieldReference:
    """Counts the data with the very bins that serving will count with."""
    draft = FieldReference(**shape, counts=(1, *(0 for _ in range(cells - 1))), distinct=distinct, design_effect=1.0)
    bins = draft.bins
    if isinstance(values, np.ndarray):
        numbered = np.array([bins.cell(value) for value in values.tolist()])
    else:
        numbered = np.array([bins.cell(value) for value in values])
    counts = tuple(int(number) for number in np.bincount(numbered, minlength=cells))
    effect = round(design_effect(numbered, blocks), 4)
    return FieldReference(**shape, counts=counts, distinct=distinct, design_effect=effect)


def _floats(values: Sequence[Any]) -> np.ndarray[Any, Any]:
    return np.array([math.nan if absent(value) else _float(value) for value in values])


def _float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _category(value: Any) -> Category:
    inner = getattr(value, "value", None) if hasattr(type(value), "__members__") else None
    plain = inner if inner is not None else value
    return plain.item() if isinstance(plain, np.generic) else plain  # type: ignore[no-any-return]
