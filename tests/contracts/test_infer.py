"""Classes learnt from data: each is executed, and must accept the very data it was learnt from."""

# ruff: noqa: E501 - tables read better with a case a line

from __future__ import annotations

import csv
import datetime
import importlib.util
import json
import math
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from sklearn import datasets

from mlguard.contracts import ContractError, infer, infer_from, json_schema
from mlguard.contracts.observed import MISSING_TEXTS

ARROW = importlib.util.find_spec("pyarrow") is not None
REAL = ["iris", "wine", "breast_cancer", "diabetes"]


def executed(text: str, name: str) -> Any:
    namespace: dict[str, Any] = {"__name__": "learnt"}
    exec(compile(text, "learnt", "exec", dont_inherit=True), namespace)
    return namespace[name]


def cells(path: Path, **options: Any) -> list[dict[str, str | None]]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, **options))
    return [{key: None if cell.strip() in MISSING_TEXTS else cell for key, cell in row.items()} for row in rows]


def field_lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.startswith("    ") and ": " in line and "#" not in line]


@pytest.fixture(params=REAL)
def real(request):
    return getattr(datasets, f"load_{request.param}")(as_frame=True).frame


def test_real_data_as_csv_is_accepted_by_its_class(real, tmp_path):
    """CSV: every row of the file, as text, passes the class learnt from it."""
    real.to_csv(tmp_path / "train.csv", index=False)
    Train = executed(infer(str(tmp_path / "train.csv")), "Train")
    rows = cells(tmp_path / "train.csv")
    assert len(rows) == len(real)
    for row in rows:
        Train.model_validate(row)
    with pytest.raises(ValidationError):
        Train.model_validate({**rows[0], real.columns[0]: 1e9})


@pytest.mark.parametrize("library", ["pyarrow", "polars"])
def test_real_data_as_parquet_is_accepted_by_its_class(real, tmp_path, library, monkeypatch):
    """Parquet: with pyarrow, and with polars where pyarrow is not there."""
    import polars

    frame = polars.from_pandas(real)
    frame.write_parquet(tmp_path / "train.parquet")
    if library == "pyarrow":
        pytest.importorskip("pyarrow", reason="Parquet is read with polars where pyarrow is not installed")
    else:
        monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    Train = executed(infer(str(tmp_path / "train.parquet")), "Train")
    for row in frame.to_dicts():
        Train.model_validate(row)


def test_real_data_as_json_lines_and_tables_give_one_class(real, tmp_path):
    """JSON lines, pandas, polars, pyarrow, columns and records in memory say the same."""
    import polars

    records = real.to_dict("records")
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    expected = field_lines(infer(str(path)))
    frame = polars.from_pandas(real)
    arrow = [frame.to_arrow()] if ARROW else []
    for data in (real, frame, *arrow, {name: real[name].to_numpy() for name in real}, records):
        text = infer_from(data, name="Data")
        assert field_lines(text) == expected
        Data = executed(text, "Data")
        for record in records:
            Data.model_validate(record)


def test_real_arrays_are_accepted_as_they_are(real, tmp_path, monkeypatch):
    """An array in a module or in a file gives an Array with its dtype, sizes and range, and passes as the same object."""
    array = real.to_numpy(dtype=np.float64)
    np.save(tmp_path / "train.npy", array)
    (tmp_path / "learnt_here.py").write_text("import numpy as np\nX = np.load('train.npy')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for source, name in (("train.npy", "Train"), ("learnt_here:X", "X")):
        Train = executed(infer(source), name)
        assert Train(values=array).values is array
        with pytest.raises(ValidationError):
            Train(values=array * 1e6)
    sys.modules.pop("learnt_here")


MIXED = """id,code,when,day,flag,score,note,grade,price,Class,sepal length (cm),,model_dump
1,007,2024-01-01T10:00:00,2024-01-01,true,1.5,long text,A,1e3,x,5.1,1,a
2,010,2024-01-02 11:30:00Z,2024-02-29,FALSE,NA,"quoted, with
newline",B,-2,y,,2,b
3,999,2024-01-03T10:00:00+02:00,2023-12-31,True,3,,A,.5,x,4.0,3,c
"""


def test_a_csv_file_of_every_kind(tmp_path):
    """Codes with leading zeros stay text, dates are dates, missing cells are None, odd names get an alias."""
    path = tmp_path / "mixed-data.csv"
    path.write_text(MIXED)
    text = infer(str(path))
    MixedData = executed(text, "MixedData")
    for row in cells(path):
        MixedData.model_validate(row)
    kinds = {name: field.annotation for name, field in MixedData.model_fields.items()}
    assert kinds["id"] is int
    assert kinds["code"] is str
    assert kinds["when"] is datetime.datetime
    assert kinds["day"] is datetime.date
    assert kinds["flag"] is bool
    assert kinds["score"] == float | None
    assert kinds["note"] == str | None
    assert MixedData.model_fields["note"].default is None
    assert kinds["Class"] is str
    assert MixedData.model_fields["sepal_length_cm"].alias == "sepal length (cm)"
    assert MixedData.model_fields["column_12"].alias == ""
    assert MixedData.model_fields["the_model_dump"].alias == "model_dump"
    assert "# 2 float; 1.5 to 3; 1 missing" in text


def test_few_texts_become_categories(tmp_path):
    """Texts that come again and again are listed; many different ones are not."""
    path = tmp_path / "t.csv"
    path.write_text("kind,name\n" + "".join(f"{'ab'[number % 2]},n{number}\n" for number in range(40)))
    assert field_lines(infer(str(path))) == [
        'kind: Literal["a", "b"]',
        "name: Annotated[str, Field(min_length=1, max_length=8)]",
    ]


def test_ranges_have_the_stated_margin():
    """A tenth of the span, in round numbers outwards; never across zero; labels stay; 0 is just what was observed."""
    data = {
        "label": [0, 1, 2],
        "count": [0, 50, 100],
        "below": [-100, -5, -50],
        "rate": [0.12, 0.5, 0.87],
        "temperature": [-5.0, 0.0, 30.0],
        "constant": [5.0, 5.0, 5.0],
        "zero": [0.0, 0.0, 0.0],
    }
    assert [line.partition("Field")[2].rstrip("]") for line in field_lines(infer_from(data))] == [
        "(ge=0, le=2)",
        "(ge=0, le=110)",
        "(ge=-110, le=0)",
        "(ge=0.04, le=0.95)",
        "(ge=-9.0, le=34.0)",
        "(ge=4.5, le=5.5)",
        "(ge=0.0)",
    ]
    assert "rate: Annotated[float, Field(ge=0.12, le=0.87)]" in infer_from(data, margin=0)


def test_missing_values_nan_and_infinities():
    """None makes a field optional; where NaN or an infinity was, a bound would refuse it, so there is none."""
    data = [
        {"a": 1.0, "b": math.nan, "c": math.inf, "d": None, "e": 1},
        {"a": None, "b": 2.0, "c": 1.0, "d": None},
        {"a": 3.5, "b": 2.5, "c": 1.0, "d": None, "e": 3},
    ]
    text = infer_from(data)
    assert field_lines(text) == [
        "a: Annotated[float | None, Field(ge=0.7, le=3.8)] = None",
        "b: float",
        "c: float",
        "d: Any = None",
        "e: Annotated[int | None, Field(ge=1, le=3)] = None",
    ]
    Row = executed(text, "Row")
    for record in data:
        Row.model_validate(record)


def test_missing_values_of_pandas_polars_and_pyarrow():
    """NaN means missing to pandas; polars and pyarrow tell the two apart."""
    import pandas
    import polars

    frame = pandas.DataFrame(
        {
            "a": [1.0, math.nan],
            "b": pandas.array([1, None], dtype="Int64"),
            "c": ["x", None],
            "d": pandas.to_datetime(["2024-01-01", None]),
            "e": pandas.Categorical(["u", "v"]),
        }
    )
    Row = executed(infer_from(frame), "Row")
    assert [name for name, field in Row.model_fields.items() if not field.is_required()] == ["a", "b", "c", "d"]
    frame = polars.DataFrame({"a": [1.0, math.nan], "b": [1, None], "c": [[1, 2], [3]], "d": [{"x": 1}, {"x": 2}]})
    for table in (frame, *([frame.to_arrow()] if ARROW else [])):
        Row = executed(infer_from(table), "Row")
        for row in frame.to_dicts():
            Row.model_validate(row)
        assert Row.model_fields["b"].default is None
        assert Row.model_fields["a"].annotation is float


def test_nested_objects_and_lists():
    """An object in an object is a class of its own, a list has the type and the lengths of its items."""
    data = [
        {"user": {"name": "a", "tags": ["x"]}, "vector": [0.5, 0.25], "mixed": [1, "a", None]},
        {"user": {"name": "b", "tags": []}, "vector": [1.0, -1.0], "mixed": []},
    ]
    text = infer_from(data)
    Row = executed(text, "Row")
    for record in data:
        Row.model_validate(record)
    assert "class RowUser(BaseModel):" in text
    assert "mixed: Annotated[list[int | str | None], Field(max_length=8)]" in text
    json_schema(Row)


@pytest.mark.parametrize(
    "array",
    [
        np.array([[1, 2], [3, 4]], np.int8),
        np.array([[0, 255]], np.uint8),
        np.array([np.nan, 1, 2], np.float32),
        np.array([np.inf, 1, 2]),
        np.array([np.nan, np.nan]),
        np.array([True, False]),
        np.array(["a", "bcd"]),
        np.array([b"a"]),
        np.array(["2024-01-01", "NaT"], "M8[D]"),
        np.array([5], "m8[s]"),
        np.array([1 + 2j]),
        np.array([1, 2], ">i4"),
        np.zeros((0, 3)),
        np.array(3.5),
        np.zeros((2, 4, 4, 3), np.float16),
        np.array([1e308, -1e308]),
        np.array([-(2**63), 2**63 - 1]),
        np.array([5e-324, 0.0]),
        np.array([65504.0], np.float16),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_arrays_of_every_kind_are_accepted_by_their_class(array):
    """dtype, sizes, NaN, infinities and extremes as observed."""
    Row = executed(infer_from(array), "Row")
    assert Row(values=array).values is array


def test_a_structured_array_is_a_table():
    """Its fields are columns."""
    array = np.array([(1, 2.5), (3, 4.5)], [("a", "i4"), ("b", "f8")])
    Row = executed(infer_from(array), "Row")
    assert list(Row.model_fields) == ["a", "b"]


names = st.text(max_size=12) | st.sampled_from(
    ["class", "model_config", "copy", "json", "self", "__init__", "_x", "int", "Field", "a b", "a_b", "A B", "ü", "1", '"""', "\\", "x\ny", "Any", "datetime"]
)  # fmt: skip
plain = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(
        ["2024-01-01", "2024-13-45", "2024-01-01T00:00:00Z", "x", "y", "'", '"', "\\N{DIGIT ONE}", "\ud800"]
    )
    | st.dates()
    | st.datetimes()
    | st.decimals(allow_nan=False, places=3)
    | st.binary(max_size=4)
)
anything = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=5
)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.dictionaries(names, anything, max_size=4), min_size=1, max_size=5))
def test_no_data_breaks_the_class_learnt_from_it(rows):
    """Any names and any values: the text compiles, runs nothing of the data's, and the class accepts every row."""
    Row = executed(infer_from(rows), "Row")
    for row in rows:
        Row.model_validate(row)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\r\x00"), max_size=6),
        min_size=1,
        max_size=4,
        unique=True,
    ),
    st.data(),
)
def test_no_csv_file_breaks_the_class_learnt_from_it(tmp_path, header, data):
    """Any cells, written by Python's csv module and read back."""
    cell = st.sampled_from(["1", "-0", "1.5", "1e400", "inf", "NaN", "", " 7 ", "true", "2024-01-01", "2024-02-30", "x", "0x1", "1_000", "\uff19", "+1", "00"]) | st.text(st.characters(codec="utf-8", exclude_characters="\r\x00"), max_size=5)  # fmt: skip
    rows = data.draw(st.lists(st.lists(cell, min_size=len(header), max_size=len(header)), min_size=1, max_size=5))
    path = tmp_path / "t.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    try:
        text = infer(str(path), delimiter=",")
    except ContractError:
        assert not any("".join(row) for row in rows)  # rows of one empty cell are empty lines
        return
    T = executed(text, "T")
    for row in cells(path, delimiter=","):
        T.model_validate(row)


def test_decimals_and_other_types_are_named():
    """Types beyond JSON's come out by their names, what nobody knows as Any."""
    text = infer_from(
        [{"a": Decimal("1.5"), "b": b"x", "c": datetime.time(1), "d": datetime.timedelta(1), "e": object()}]
    )
    Row = executed(text, "Row")
    assert Row.model_fields["a"].annotation is Decimal
    assert Row.model_fields["c"].annotation is datetime.time
    assert Row.model_fields["e"].annotation is Any


def test_progress_is_told_and_memory_is_bounded(tmp_path):
    """A file is read in pieces: what is kept of it does not grow with its rows."""
    import tracemalloc

    path = tmp_path / "big.csv"
    with path.open("w") as file:
        file.write("id,text\n")
        file.writelines(f"{number},text number {number}\n" for number in range(30_000))
    told: list[int] = []
    tracemalloc.start()
    infer(str(path), progress=told.append)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert told == [10_000, 20_000, 30_000]
    assert peak < 1_000_000


BAD_FILES = [
    ("t.csv", b"", "is empty"),
    ("t.csv", b"a,b\n", "has no rows"),
    ("t.csv", b"a,a\n1,2\n", "the column 'a' is there twice"),
    ("t.csv", b"a,b\n1,2,3\n", "line 2: 3 cells, but the header has 2"),
    ("t.csv", b'a,b\n1,"2\n', "line 2: unexpected end of data"),
    ("t.csv", "a\nü\n".encode("latin-1"), "--encoding"),
    ("t.csv", b"a\n" + b"x" * (2**24 + 2) + b"\n", "field larger than field limit"),
    ("t.jsonl", b'{"a": 1}\n{"a": \n', "line 2: no JSON"),
    ("t.jsonl", b"[1]\n", "line 1: a list, not an object"),
    ("t.jsonl", b"[" * 100_000, "line 1: "),
    ("t.jsonl", b'"' + b"x" * (2**24 + 2), "longer than 16 MiB"),
    ("t.parquet", b"no parquet at all", "can't be read"),
    ("t.npy", b"no array at all", "can't be read"),
    ("t.xlsx", b"x", ".xlsx is not known"),
    ("t", b"x", "a name without ending is not known"),
]


@pytest.mark.parametrize(("name", "content", "words"), BAD_FILES, ids=range(len(BAD_FILES)))
def test_a_bad_file_is_refused_with_its_line_and_a_fix(tmp_path, name, content, words):
    """The message names file, line and what to do."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ContractError, match="Fix: ") as raised:
        infer(str(path))
    assert words in str(raised.value)
    assert str(path) in str(raised.value)


def test_a_long_cell_is_text_like_any_other(tmp_path):
    """A document in a cell is read whole, whatever Python's csv module takes by default, which is as it was then."""
    before = csv.field_size_limit()
    path = tmp_path / "t.csv"
    path.write_text("a\n" + "x" * 200_000 + "\n")
    executed(infer(str(path)), "T").model_validate({"a": "x" * 200_000})
    assert csv.field_size_limit() == before


def test_space_around_cells(tmp_path):
    """Numbers may have space around them; dates and truth values with some are text, as pydantic has it."""
    path = tmp_path / "t.csv"
    path.write_text("a,b,c,d\n 1 , 2020-01-01, true,1\x1f\n2,2020-01-02,false,2\n")
    model = executed(infer(str(path)), "T")
    for row in cells(path):
        model.model_validate(row)
    assert [model.model_fields[name].annotation for name in "abcd"] == [int, str, str, str]


def test_numbers_beyond_every_float():
    """Whole numbers that no float holds get no range, and stay whole numbers beside floats."""
    for rows in ([{"a": 10**400}, {"a": 1.5}], [{"a": 10**4000}, {"a": -1}], [{"a": 2**70}, {"a": 1}]):
        model = executed(infer_from(rows, name="T"), "T")
        for row in rows:
            assert model.model_validate(row).a == row["a"]


def test_a_column_called_as_a_nested_class():
    """A field hides no class that a later field needs."""
    rows = [{"RowA": 1, "a": {"b": 1}}, {"RowA": None, "a": {"b": 2}}]
    model = executed(infer_from(rows), "Row")
    for row in rows:
        assert model.model_validate(row).a.b == row["a"]["b"]


def test_what_python_can_not_hold_is_refused_by_its_column():
    """A time after the year 9999 is an error that names the column."""
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({"when": pyarrow.array([2**60], pyarrow.timestamp("s"))})
    with pytest.raises(ContractError, match=r"the column 'when' holds what Python can't.*Fix: "):
        infer_from(table)
    with pytest.raises(ContractError, match=r"the name of column 1 is no text.*Fix: "):
        infer_from([{"\ud800": 1}])


def test_whole_numbers_of_128_bits():
    """polars has them, NumPy has not."""
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({"a": polars.Series([2**100, None], dtype=polars.Int128)})
    model = executed(infer_from(frame), "Row")
    assert [model.model_validate(row).a for row in frame.to_dicts()] == [2**100, None]


def test_columns_of_an_array_that_differ_get_a_range_each():
    """Where one range would say little, every column has its own; columns alike share one."""
    ages = np.tile([[20.0, 1e-3, np.nan], [60.0, 2e-3, 1e6], [40.0, 1e-3, np.inf]], (4, 1))
    text = infer_from(ages, margin=0)
    assert "ge=[20.0, 0.001, 1000000.0], le=[60.0, 0.002, None], allow_nan=True" in text
    model = executed(text, "Row")
    assert model(values=ages).values is ages
    with pytest.raises(ValidationError, match="column 1"):
        model(values=ages[:, [0, 0, 2]])
    same = np.tile([[1.0, 2.0], [3.0, 2.5], [2.0, 4.0]], (4, 1))
    assert "ge=1.0, le=4.0)" in infer_from(same, margin=0)
    for array in (ages[:3], np.arange(990.0).reshape(30, 33), np.arange(80.0).reshape(20, 2, 2)):
        assert "ge=[" not in infer_from(array)


def test_an_array_of_objects_in_a_file_is_never_unpickled(tmp_path):
    """A file can't run code."""
    np.save(tmp_path / "t.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ContractError, match="can't be read"):
        infer(str(tmp_path / "t.npy"))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (3, "is a int, from which no class can be learnt"),
        ([], "is a list"),
        ([1, 2], "is a list"),
        ({"a": [1], "b": [1, 2]}, "different lengths"),
        ({"a": []}, "has no rows"),
        (np.array([{}], dtype=object), "object can't be declared"),
    ],
)
def test_data_that_teaches_nothing_is_refused(data, words):
    """Said with what can be learnt from."""
    with pytest.raises(ContractError, match="Fix: ") as raised:
        infer_from(data)
    assert words in str(raised.value)


def test_bad_options_are_refused(tmp_path):
    """Name, margin, encoding and source."""
    path = tmp_path / "t.csv"
    path.write_text("a\n1\n")
    for options, words in (
        ({"name": "no name"}, "can't be the name of a class"),
        ({"name": "class"}, "can't be the name of a class"),
        ({"margin": -1}, "margin = -1"),
        ({"margin": math.nan}, "margin = nan"),
        ({"encoding": "klingon"}, "'klingon' is no encoding"),
    ):
        with pytest.raises(ContractError, match="Fix: ") as raised:
            infer(str(path), **options)
        assert words in str(raised.value)
    with pytest.raises(ContractError, match="there is no file"):
        infer(str(tmp_path / "absent.csv"))
    folder = tmp_path / "folder.csv"
    folder.mkdir()
    with pytest.raises(ContractError, match="is a folder"):
        infer(str(folder))


def test_parquet_without_a_reader_names_the_package(tmp_path, monkeypatch):
    """Neither pyarrow nor polars: one line says what to install."""
    (tmp_path / "t.parquet").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(ContractError, match="Fix: pip install pyarrow"):
        infer(str(tmp_path / "t.parquet"))


def test_the_class_is_a_pydantic_model_that_says_where_it_comes_from(tmp_path):
    """Docstring and first line name the source, whatever is in its name."""
    path = tmp_path / 'we"""ird\\.csv'
    path.write_text("a\n1\n")
    text = infer(str(path), name="Weird")
    assert issubclass(executed(text, "Weird"), BaseModel)
    assert text.startswith("# Learnt from ")
