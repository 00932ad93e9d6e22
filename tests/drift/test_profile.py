"""The reference: made from whatever training data is in, saved, loaded, and refused where it can't be trusted."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pydantic import BaseModel, SecretStr

from mlguard import Redacted, guarded
from mlguard.drift import Profile, ProfileError, profile
from mlguard.drift.reference import LARGEST


def columns(random: np.random.Generator, number: int = 1_000) -> dict[str, Any]:
    return {
        "x": random.normal(size=number),
        "few": random.integers(0, 5, number),
        "city": random.choice(["Bern", "Kiel"], number).tolist(),
        "member": random.choice([True, False], number).tolist(),
    }


def test_the_same_from_every_kind_of_table(random) -> None:
    """A dict, a structured array, records, models, and frames of pandas, polars and pyarrow give one profile."""
    data = columns(random)
    expected = profile(data)
    records = [dict(zip(data, row, strict=True)) for row in zip(*data.values(), strict=True)]

    @dataclasses.dataclass
    class Row:
        x: float
        few: int
        city: str
        member: bool

    structured = np.empty(1_000, dtype=[("x", "f8"), ("few", "i8"), ("city", "U8"), ("member", "?")])
    for name, values in data.items():
        structured[name] = values
    for other in (
        pd.DataFrame(data),
        pd.DataFrame(data).convert_dtypes(),
        pl.DataFrame(data),
        pa.table(data),
        structured,
        records,
        [Row(**record) for record in records],
        {name: pd.Series(values) for name, values in data.items()},
    ):
        assert profile(other) == expected, type(other)


def test_missing_values_are_counted_wherever_they_are(random) -> None:
    """None, NaN, pd.NA and nulls of polars and pyarrow are missing values of the field."""
    numbers: list[Any] = random.normal(size=1_000).tolist()
    texts: list[Any] = ["a", "b"] * 500
    for row in range(0, 1_000, 10):
        numbers[row] = texts[row] = None
    data = {"x": numbers, "s": texts}
    for each in (data, pd.DataFrame(data), pd.DataFrame(data).convert_dtypes(), pl.DataFrame(data), pa.table(data)):
        x, s = profile(each).fields
        assert (x.missing, s.missing) == (0.1, 0.1), type(each)
    holes = np.array([np.nan if value is None else value for value in numbers])
    assert profile({"x": holes}).fields[0].counts == profile(data).fields[0].counts


def test_kinds_of_fields(random) -> None:
    """Numbers get ten quantile bins, few numbers a cell each, texts categories, free text its length, times nothing."""

    class Colour(enum.Enum):
        RED = "red"
        BLUE = "blue"

    made = profile(
        {
            "x": random.normal(size=2_000),
            "few": random.integers(0, 5, 2_000),
            "constant": np.full(2_000, 7.5),
            "zeros": np.where(random.random(2_000) < 0.6, 0.0, random.random(2_000)),
            "colour": random.choice(np.array([*Colour], dtype=object), 2_000).tolist(),
            "id": [f"user {number}" for number in range(2_000)],
            "many": random.integers(0, 30, 2_000).astype(str).tolist(),
            "when": np.datetime64("2026-01-01") + np.arange(2_000),
            "stamp": [datetime.datetime(2026, 1, 1)] * 2_000,
            "nested": [{}] * 2_000,
            "nothing": np.full(2_000, np.nan),
        },
        exclude=["stamp"],
    )
    found = {field.name: field for field in made.fields}
    assert len(found["x"].edges) == 11
    assert found["few"].bins.labels[1:6] == ("0", "1", "2", "3", "4")
    assert found["constant"].edges == (7.5, 7.5)
    assert found["zeros"].counts[1] > 1_100  # zero has a cell of its own
    assert found["colour"].categories in (("red", "blue"), ("blue", "red"))
    assert found["id"].kind == "length"
    assert len(found["many"].categories) == 20
    assert len(found["many"].rare) == 10
    assert made.left_out == {
        "when": "times never repeat",
        "stamp": "excluded",
        "nested": "it holds values of type dict",
        "nothing": "it holds no finite number",
    }
    assert all(field.rows == 2_000 for field in made.fields)


def test_infinities_lie_outside_the_trained_range(random) -> None:
    """Infinite values of the training data are counted as below and above, and don't become edges."""
    values = random.normal(size=1_000)
    values[:10], values[10:30] = np.inf, -np.inf
    (field,) = profile({"x": values}).fields
    assert (field.counts[0], field.counts[-3]) == (20, 10)
    assert np.isfinite(field.edges).all()


def test_numbers_at_the_ends_of_floats(tmp_path: Path) -> None:
    """Numbers near the ends of floats and integers beyond them make a profile that can be saved and counts."""
    made = profile(
        {
            "huge": np.array([1e308, -1e308, 1.7e308] * 400),
            "tiny": np.array([5e-324, 0.0] * 600),
            "beyond": [10**400, -(10**400), 1.0] * 400,
            "wide": np.array([2**63 - 1, -(2**63)] * 600),
        }
    )
    made.save(tmp_path / "p.json")
    assert Profile.load(tmp_path / "p.json") == made
    found = {field.name: field.counts for field in made.fields}
    assert found["huge"][1:4] == (400, 400, 400)
    assert found["tiny"][1:3] == (600, 600)
    assert found["beyond"] == (400, 400, 400, 0, 0)


def test_masked_values_and_broken_text(random) -> None:
    """What a mask hides is missing; text that can't be saved is left out."""
    masked = np.ma.masked_array(random.normal(size=(1_000, 2)), mask=np.arange(2_000).reshape(1_000, 2) % 10 == 0)
    assert [field.missing for field in profile(masked).fields] == [0.2, 0.0]
    made = profile({"x": random.normal(size=1_000), "text": ["\ud800", "b"] * 500})
    assert made.left_out == {"text": "it holds values of type str"}


def test_codes_can_be_categories(random) -> None:
    """Numbers that are codes are categories where the caller says so."""
    (field,) = profile({"store": random.integers(100, 110, 1_000)}, categorical=["store"]).fields
    assert field.kind == "category"
    assert set(field.categories) == set(range(100, 110))


def test_arrays_have_a_field_for_each_column(random) -> None:
    """A bare array is named by position or by the names given, an array in a column after it."""
    data = random.normal(size=(200, 3))
    with pytest.warns(UserWarning, match="200 rows"):
        assert [field.name for field in profile(data).fields] == ["[0]", "[1]", "[2]"]
    with pytest.warns(UserWarning, match="200 rows"):
        assert [field.name for field in profile(data, columns=["a", "b", "c"]).fields] == ["a", "b", "c"]
    with pytest.warns(UserWarning, match="200 rows"):
        made = profile({"f": data.tolist(), "age": data[:, 0]}, data[:, :2])
    assert [field.name for field in made.fields] == ["f[0]", "f[1]", "f[2]", "age", "output[0]", "output[1]"]


def test_correlated_rows_show_in_the_design_effect(random) -> None:
    """Independent rows have a design effect of 1, rows that stay for ten a far larger one."""
    (plain,) = profile({"x": random.normal(size=5_000)}).fields
    (runs,) = profile({"x": np.repeat(random.normal(size=500), 10)}).fields
    assert plain.design_effect == 1.0
    assert 6 < runs.design_effect < 16


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([], "data has no rows"),
        ({}, "data has no rows"),
        ({"x": []}, "data has no rows"),
        (np.zeros((0, 3)), "data has no rows"),
        ({"x": [1.0, 2.0, 3.0]}, "3 rows are too few for a profile: at least 50"),
        ({"x": [1.0] * 60, "y": [1.0] * 59}, "'y' has 59 values, 'x' 60"),
        ({"x": "abc"}, "column 'x' is a str"),
        ({"x": 3}, "column 'x' is a int"),
        (np.zeros((60, 2, 2)), "3 dimensions"),
        (np.array([["a", "b"]] * 60), "not of numbers"),
        ({"x": [[1.0], [1.0, 2.0]] * 30}, "no rows of equally many numbers"),
        (object(), "has no columns"),
        ({"x": [{}] * 60}, "nothing in the data can be watched"),
        (np.zeros((60, 2_001)), "2,001 columns, a profile at most 2,000"),
        (pd.DataFrame([[1.0, 2.0]] * 60, columns=["a", "a"]), "two columns are called 'a'"),
    ],
)
def test_bad_data_is_refused(data: Any, said: str) -> None:
    """Whatever can't be a reference is refused with the reason and the fix."""
    with pytest.raises(ProfileError, match=said) as caught:
        profile(data)
    assert "Fix: " in str(caught.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bins": 1}, "bins = 1"),
        ({"blocks": ()}, "blocks = "),
        ({"exclude": ["ciyt"]}, "Did you mean 'city'"),
        ({"categorical": ["nope"]}, "no column 'nope'"),
        ({"predictions": [1.0] * 3}, "1,000 rows of data and 3 predictions"),
        ({"schema": 3}, "schema is an object of type int"),
        ({"schema": int}, "int has no fields"),
    ],
)
def test_bad_options_are_refused(random, options: dict[str, Any], said: str) -> None:
    """An option that makes no sense names itself and the fix."""
    with pytest.raises(ProfileError, match=said):
        profile(columns(random), **options)


def test_names_of_an_array_must_fit() -> None:
    """As many different names as columns."""
    with pytest.raises(ProfileError, match="one name a column"):
        profile(np.zeros((60, 2)), columns=["a"])


def test_saved_and_loaded_is_the_same(random, tmp_path: Path) -> None:
    """A profile comes back equal, as bytes that depend on nothing but the data."""
    made = profile(columns(random), random.random(1_000))
    made.save(tmp_path / "p.json")
    again = Profile.load(tmp_path / "p.json")
    assert again == made
    assert again.fingerprint == made.fingerprint
    assert hash(again) == hash(made)
    again.save(tmp_path / "q.json")
    assert (tmp_path / "p.json").read_bytes() == (tmp_path / "q.json").read_bytes()
    assert [file.name for file in tmp_path.iterdir()] == ["p.json", "q.json"] or len([*tmp_path.iterdir()]) == 2
    assert repr(made) == "<Profile of 1,000 rows: 4 inputs, 1 predictions>"
    assert made != object()


def _changed(**changes: Any):
    def change(saved: dict[str, Any]) -> Any:
        return saved | changes

    return change


def _field(**changes: Any):
    def change(saved: dict[str, Any]) -> Any:
        return saved | {"fields": [saved["fields"][0] | changes, *saved["fields"][1:]]}

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda saved: "{", "is no whole JSON"),
        (lambda saved: "[" * 100_000, "is no whole JSON"),
        (lambda saved: "[]", "is no profile of mlguard"),
        (lambda saved: "{}", "is no profile of mlguard"),
        (_changed(mlguard_profile=2), "a profile of version 2"),
        (_changed(mlguard_profile="x"), "damaged profile: mlguard_profile"),
        (_changed(rows=0), "damaged profile: rows"),
        (_changed(rows=999), "damaged profile"),
        (_changed(fields=[]), "damaged profile: fields"),
        (_changed(more=1), "damaged profile: more"),
        (_field(counts=[1]), "damaged profile: fields.0"),
        (_field(counts=[-1] * 14), "damaged profile: fields.0"),
        (_field(edges=[2.0, 1.0]), "edges must ascend"),
        (_field(edges=[]), "need two edges"),
        (_field(design_effect=0.5), "damaged profile: fields.0.design_effect"),
        (_field(index=3), "index must be below width"),
        (_field(kind="category"), "damaged profile"),
        (_field(name="few"), "damaged profile"),
    ],
)
def test_damaged_files_are_refused(random, tmp_path: Path, change: Any, said: str) -> None:
    """A file that is no whole profile is refused with the place of the damage, and never half used."""
    file = tmp_path / "p.json"
    profile(columns(random)).save(file)
    changed = change(json.loads(file.read_text()))
    file.write_text(changed if isinstance(changed, str) else json.dumps(changed))
    with pytest.raises(ProfileError, match=said) as caught:
        Profile.load(file)
    assert "Fix: " in str(caught.value)


def test_files_that_are_none(random, tmp_path: Path) -> None:
    """An absent file, a folder, a file too large, a folder that is not there: each has its own words."""
    with pytest.raises(ProfileError, match="does not exist"):
        Profile.load(tmp_path / "p.json")
    with pytest.raises(ProfileError, match="is no file"):
        Profile.load(tmp_path)
    large = tmp_path / "large.json"
    with large.open("wb") as file:
        file.truncate(LARGEST + 1)
    with pytest.raises(ProfileError, match="a profile at most"):
        Profile.load(large)
    with pytest.raises(ProfileError, match="can't be written"):
        profile(columns(random)).save(tmp_path / "no" / "p.json")


class Patient(BaseModel):
    age: int
    name: SecretStr
    code: Annotated[str, Redacted]


def test_what_the_schema_hides_is_left_out(random) -> None:
    """Secrets and redacted fields never get into a profile made with their schema."""
    data = {"age": random.integers(0, 99, 1_000), "name": ["a"] * 1_000, "code": ["b"] * 1_000}
    made = profile(data, schema=Patient)
    assert [field.name for field in made.fields] == ["age"]
    assert made.left_out == {"name": "the schema hides it", "code": "the schema hides it"}

    @guarded
    def predict(age: int, code: Annotated[str, Redacted]) -> float:
        raise NotImplementedError

    del data["name"]
    assert [field.name for field in profile(data, schema=predict).fields] == ["age"]


def test_no_table_library_is_imported() -> None:
    """Making and loading a profile of a dict imports neither pandas nor polars, pyarrow or SciPy."""
    code = (
        "import sys, mlguard.drift as d; p = d.profile({'x': [float(n) for n in range(1000)]});"
        "print([m for m in ('pandas', 'polars', 'pyarrow', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_package_loads_nothing_before_it_is_used() -> None:
    """`import mlguard` does not load what makes and reads profiles."""
    code = "import sys, mlguard; print([m for m in sys.modules if m.startswith('mlguard.drift.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['mlguard.drift.section']"
