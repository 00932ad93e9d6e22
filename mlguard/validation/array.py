"""`Array`: dtype, shape and values of a NumPy array, in one declaration beside its type.

Type checkers see a plain array; pydantic sees the checks. What a declaration may say is made sure of in `declared.py`;
`array_check.py` is what pydantic calls, `sequences.py` the same for lists that stay lists.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, Final, Literal, cast

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from mlguard.clock import Size
from mlguard.errors import PolicyError
from mlguard.validation.array_check import ArrayCheck, function_of
from mlguard.validation.columns import Bound
from mlguard.validation.declared import (
    BOUNDS,
    Entry,
    declared_dtype,
    distinct,
    dtype_text,
    plain,
    refuse_impossible,
    spans,
)
from mlguard.validation.depth import Depth
from mlguard.validation.marks import Foldable
from mlguard.validation.sequences import SequenceCheck, is_sequence
from mlguard.validation.tables.marks import TableCheck

__all__ = ["Array", "ArrayCheck", "Check", "array_checks", "check_of"]

Check = ArrayCheck | SequenceCheck | TableCheck


class Array:
    """What an array must look like: metadata for ``Annotated[npt.NDArray[np.float32], Array("batch", 30, ge=0)]``.

    An array that fits is handed on as the very same object. Nested lists (and JSON arrays) become arrays where nothing
    is lost: ``None``, ``"1.5"``, 1.7 for an integer and 1e39 for a float32 are refused; a float is rounded to the
    nearest that the dtype has. Another dtype is converted where NumPy calls the cast safe and every value survives.
    Masked arrays, arrays of objects and structured arrays are refused; a size of zero is fine where the shape is.

    pydantic's own ``Field(ge=0)`` and annotated_types beside it mean the same as the arguments here. On a list, tuple,
    set or text, such as ``Annotated[list[str], Array("batch")]``, it declares the dimensions; the value stays a list.

    Args:
        *shape: One entry a dimension: a number; a range of numbers such as ``(1, 512)``, both ends included and None
            for no end; a name that means the same size in all arguments, model fields and the result of one call; a
            range with a name, such as ``("tokens", 1, 512)``; or once ``...`` for any dimensions. No entry at all: any
            shape.
        dtype: What the elements are. Default: the dtype of the annotation, such as float32 in
            ``npt.NDArray[np.float32]``; where that names none, any boolean, number, text or time. One, or an abstract
            one such as ``np.floating``; ``str``, ``bytes`` and ``"M8"`` leave the length or the unit open.
        columns: Names of the entries of the last dimension, whose number it must be: for bounds by name, and errors.
        finite: Refuse NaN, infinities and NaT. Default False, because NaN is how many models spell a missing value.
        allow_nan: Let NaN pass the bounds and categories. Default False: NaN is neither above nor below anything, so
            that a bound refuses it, as pydantic's own ``Field(ge=0)`` does. Without bounds, only `finite` refuses NaN.
        ge: Least value allowed. Compared as NumPy compares: the bound is rounded to a floating dtype first. One for
            all values; or one a column, as a sequence (None: no bound) or by name, ``{"age": 0}``.
        gt: Every value must be greater.
        le: Greatest value allowed.
        lt: Every value must be less.
        categories: The only values allowed: numbers or texts.
        monotonic: "increasing" (equal neighbours allowed), "strictly_increasing", "decreasing" or
            "strictly_decreasing", along the last dimension.
        unique: No value is there twice, in the whole array; NaN counts as one value.
        max_bytes: The most bytes it may take, such as ``"16MiB"``; for lists looked at before they are converted.
        check: "full", "sample" (at most 16,384 values, evenly spread, are looked at; what is bad elsewhere passes) or
            "metadata" (no value is; class, dtype and shape always are). None: what the policy's Validation.check says.
        strict: Refuse what is not an array of exactly this dtype. Default False: convert where nothing is lost. JSON
            has nothing but lists, so there a list is what strict expects.

    Raises:
        PolicyError: A declaration that no array could meet, or that does not fit the annotation.
    """

    def __init__(
        self,
        *shape: Entry,
        dtype: Any = None,
        columns: Iterable[str] | None = None,
        finite: bool = False,
        allow_nan: bool = False,
        ge: Bound = None,
        gt: Bound = None,
        le: Bound = None,
        lt: Bound = None,
        categories: Collection[Any] | None = None,
        monotonic: Literal["increasing", "strictly_increasing", "decreasing", "strictly_decreasing"] | None = None,
        unique: bool = False,
        max_bytes: Size | None = None,
        check: Depth | None = None,
        strict: bool = False,
    ) -> None:
        self.shape = plain(shape)
        self.dimensions = spans(self.shape)
        """The shape, with ranges as `Span`."""
        self.dtype = dtype
        self.columns: Any = _names(columns)
        self.finite = finite
        self.allow_nan = allow_nan
        self.ge, self.gt, self.le, self.lt = map(_frozen, (ge, gt, le, lt))
        self.categories = distinct(categories)
        self.monotonic = monotonic
        self.unique = unique
        self.max_bytes = max_bytes
        self.check: Depth | None = check
        self.strict = strict
        refuse_impossible(self)

    def but(self, **changes: Any) -> Array:
        """The same declaration with other settings; ``shape=`` for the dimensions."""
        settings = {name: getattr(self, name) for name in _SETTINGS} | changes
        return Array(*settings.pop("shape", self.shape), **settings)

    def __repr__(self) -> str:
        given = [repr(entry) if entry is not ... else "..." for entry in self.shape]
        for name, default in _SETTINGS.items():
            value = getattr(self, name)
            if value is not default:
                given.append(f"{name}={dtype_text(value) if name == 'dtype' else repr(value)}")
        return f"Array({', '.join(given)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Array) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        if isinstance(source, _Inner):
            raise PolicyError(f"{self!r}: another Array stands beside the same type. Fix: one that says what both say.")
        found = check_of(self, source)
        if isinstance(found, SequenceCheck):
            return found.schema(handler(source))
        return handler(_Inner(self, source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        check = next((found for found in array_checks(schema) if isinstance(found, ArrayCheck)), None)
        from mlguard.contracts.array_schema import (
            array_schema,
            shape_words,
        )  # needed where contracts are asked for only

        if check is None:
            return {**_sized(self, handler(schema)), "shape": shape_words(self.dimensions or (...,))}
        return array_schema(check, dtype_text(check.expected))


def check_of(array: Array, source: Any) -> Check:
    """The check of an annotation ``Annotated[source, array]``."""
    return SequenceCheck(array, source) if is_sequence(source) else ArrayCheck(array, declared_dtype(array, source))


def array_checks(schema: Any, handler: GetCoreSchemaHandler | None = None) -> list[Check]:
    """Every array, sized sequence and table that a core schema checks, each once a place.

    Args:
        schema: A finished core schema, or one in the making.
        handler: For one in the making: what finds the models that it only refers to yet.
    """
    found: list[Check] = []
    seen: set[str] = set()
    rest = [schema]
    while rest:
        node = rest.pop()
        if isinstance(node, dict):
            kind = node.get("type")
            if kind == "definition-ref" and handler is not None:
                if node["schema_ref"] not in seen:
                    seen.add(node["schema_ref"])
                    rest.append(handler.resolve_ref_schema(cast(CoreSchema, node)))
                continue
            if kind == "json-or-python":  # an array has up to three functions, and counts once
                owner = _owner(node["json_schema"])
                if isinstance(owner, ArrayCheck | TableCheck):
                    found.append(owner)
                    continue
            elif kind == "function-after" and isinstance(owner := _owner(node), SequenceCheck):
                found.append(owner)
            rest.extend(part for key, part in node.items() if key not in ("metadata", "serialization"))
        elif isinstance(node, list | tuple):
            rest.extend(node)
    return found


class _Inner:
    """Stands for the array's type where pydantic asks for its schema: inside of everything that stands beside it."""

    def __init__(self, array: Array, source: Any) -> None:
        self._array, self._source = array, source

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return cast(CoreSchema, Foldable(self._array, self._schema))

    def _schema(self, array: Array) -> CoreSchema:
        check = ArrayCheck(array, declared_dtype(array, self._source))
        lists = core_schema.plain_serializer_function_ser_schema(_as_lists, when_used="json")
        exact = function_of(check.exact, check.exact_named, check.names)
        accept = exact if array.strict else function_of(check.accept, check.accept_named, check.names)
        return core_schema.json_or_python_schema(
            function_of(check.accept_json, check.accept_json_named, check.names),
            accept if array.strict else core_schema.lax_or_strict_schema(accept, exact),
            serialization=lists,
        )


def _owner(schema: Any) -> Any:
    return getattr(schema.get("function", {}).get("function"), "__self__", None)


def _sized(array: Array, described: dict[str, Any]) -> dict[str, Any]:
    """What pydantic says of a sequence, with the sizes of the outermost dimension that are known."""
    first = array.dimensions[0] if array.dimensions else ...
    kind = "Length" if described.get("type") == "string" else "Items"
    if isinstance(first, int):
        described |= {f"min{kind}": first, f"max{kind}": first}
    elif isinstance(first, tuple):
        described |= {f"min{kind}": first.low} | ({} if first.high == float("inf") else {f"max{kind}": first.high})
    if array.unique:
        described["uniqueItems"] = True
    return described


def _as_lists(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


def _names(columns: Any) -> Any:
    """Names as a tuple; what can't be names is left to be refused."""
    if hasattr(columns, "tolist"):
        columns = columns.tolist()
    return tuple(columns) if isinstance(columns, Iterable) and not isinstance(columns, str) else columns


def _frozen(bound: Any) -> Any:
    """A bound that later changes of a list can't reach; NumPy's numbers and arrays of them as Python's."""
    if hasattr(bound, "to_dict"):  # a pandas Series: by name, whatever the order; by number where it has no names
        by_name = bound.to_dict()
        bound = list(by_name.values()) if list(by_name) == list(range(len(by_name))) else by_name
    elif hasattr(bound, "tolist"):
        bound = bound.tolist()
    return tuple(bound) if isinstance(bound, list | tuple) else dict(bound) if hasattr(bound, "keys") else bound


_SETTINGS: Final[dict[str, Any]] = {
    "dtype": None, "columns": None, "finite": False, "allow_nan": False, "strict": False,
    **dict.fromkeys(BOUNDS), "categories": None, "monotonic": None, "unique": False, "max_bytes": None, "check": None,
}  # fmt: skip
"""Every setting but the shape, in the order a repr shows them, with its default."""
