"""`mlguard drift`: a profile from a file, and data checked against it, with an exit status for CI."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from mlguard.cli.app import app
from mlguard.drift import Profile

MODULE = """
import numpy as np
from pydantic import BaseModel
rng = np.random.default_rng(5)
data = {"x": rng.normal(size=1000)}
class Row(BaseModel):
    x: float
def later():
    return {"x": rng.normal(2, 1, size=1000)}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with training data as CSV, and a module."""
    random = np.random.default_rng(4)
    for name, scale in (("train", 1.0), ("same", 1.0), ("other", 2.0)):
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["age", "income", "city", "member", "zip", "score"])
            for number in range(1_500):
                income = "" if number % 20 == 0 else f"{random.lognormal(10, 1) * scale:.2f}"
                row = [
                    random.integers(18, 90),
                    income,
                    random.choice(["Bern", "Kiel"]),
                    random.choice(["true", "False"]),
                ]
                writer.writerow([*row, random.choice(["01234", "99999"]), f"{random.random():.3f}"])
    (tmp_path / "drift_rows.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("drift_rows", None)
    return tmp_path


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["drift", *words], env={"COLUMNS": "120"})


def test_a_profile_and_a_check(folder) -> None:
    """Training data makes a profile; the same sort of data passes, other data does not, and absent columns neither."""
    made = run("profile", "train.csv", "-o", "p.json", "--predictions", "score", "--exclude", "member")
    assert made.exit_code == 0, made.output
    assert "p.json: 1,500 rows, 5 fields" in made.output
    assert "without member: excluded" in made.output
    found = {field.name: field for field in Profile.load("p.json").fields}
    assert {name: field.kind for name, field in found.items()} == {
        "age": "number", "income": "number", "city": "category", "zip": "category", "output": "number",
    }  # fmt: skip
    assert found["income"].missing == 0.05
    same = run("check", "p.json", "same.csv", "--predictions", "score")
    assert same.exit_code == 0, same.output
    assert "0 of 5 fields drifted in 1,500 rows." in same.output
    other = run("check", "p.json", "other.csv", "--json")
    assert other.exit_code == 1
    assert json.loads(other.output)["drifted"] == ["income"]
    (folder / "few.csv").write_text("age\n" + "50\n" * 100)
    absent = run("check", "p.json", "few.csv")
    assert absent.exit_code == 1
    assert "In the profile only: income, city, zip, output" in absent.output


def test_other_sources(folder) -> None:
    """Parquet, JSON lines, NumPy files and objects of a module are read as well; missing values stay in their rows."""
    frame = pd.read_csv("train.csv", dtype={"zip": str})
    frame.to_parquet("train.parquet")
    (folder / "train.jsonl").write_text(frame.drop(columns="income").to_json(orient="records", lines=True))
    np.save("train.npy", frame[["age", "score"]].to_numpy())
    for name, rows in (
        ("train.parquet", 1_500),
        ("train.jsonl", 1_500),
        ("train.npy", 1_500),
        ("drift_rows:data", 1_000),
    ):
        made = run("profile", name, "-o", "p.json")
        assert made.exit_code == 0, made.output
        assert Profile.load("p.json").rows == rows
    made = run("profile", "drift_rows:data", "-o", "p.json", "--schema", "drift_rows:Row")
    assert made.exit_code == 0, made.output
    assert run("check", "p.json", "drift_rows:later").exit_code == 1
    run("profile", "train.parquet", "-o", "a.json")
    run("profile", "train.csv", "-o", "b.json")
    a, b = ({field.name: field for field in Profile.load(name).fields} for name in ("a.json", "b.json"))
    assert a["income"] == b["income"]


def test_predictions_from_a_file(folder) -> None:
    """Predictions may lie in a file of their own, of one column."""
    pd.read_csv("train.csv")[["score"]].to_csv("said.csv", index=False)
    made = run("profile", "train.csv", "-o", "p.json", "--predictions", "said.csv", "--exclude", "score")
    assert made.exit_code == 0, made.output
    assert [field.name for field in Profile.load("p.json").fields if field.role == "output"] == ["output"]


def test_a_small_profile_is_warned_of(folder) -> None:
    """Few rows make a profile with a warning, too few make none."""
    lines = (folder / "train.csv").read_text().splitlines(keepends=True)
    (folder / "small.csv").write_text("".join(lines[:201]))
    (folder / "tiny.csv").write_text("".join(lines[:4]))
    small = run("profile", "small.csv", "-o", "p.json")
    assert small.exit_code == 0
    assert "a profile of 200 rows knows little" in small.output
    tiny = run("profile", "tiny.csv", "-o", "q.json")
    assert tiny.exit_code == 2
    assert "3 rows are too few" in tiny.output
    assert not (folder / "q.json").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("profile", "nope.csv", "-o", "p.json"), "can't be read"),
        (("profile", "train.xlsx", "-o", "p.json"), "is not known"),
        (("profile", "bad.parquet", "-o", "p.json"), "can't be read"),
        (("profile", "train.csv", "-o", "no/p.json"), "does not exist"),
        (("profile", "train.csv", "-o", "p.json", "--delimiter", "ab"), "not one character"),
        (("profile", "drift_rows:nope", "-o", "p.json"), "has no 'nope'"),
        (("profile", "drift_rows:data", "-o", "p.json", "--schema", "drift_rows:data"), "schema is an object"),
        (("check", "nope.json", "train.csv"), "does not exist"),
        (("check", "bad.parquet", "train.csv"), "is no whole JSON"),
        (("check", "p.json", "drift_rows:data", "--p-value", "3"), "does not exist"),
    ],
)
def test_errors_end_with_two(folder, words: tuple[str, ...], said: str) -> None:
    """A broken job is no green one, and says what is wrong."""
    (folder / "bad.parquet").write_text("this is no parquet")
    done = run(*words)
    assert done.exit_code == 2
    assert said in done.output.replace("\n", " ")
