"""`mlguard schema`, run as a user and a CI job run it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("typer", reason="the command line needs the extra 'cli'")

from mlguard import clock
from mlguard.cli import main

CODE = """
from typing import Annotated
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field, field_validator
from mlguard import Array, guarded

class Old(BaseModel):
    features: Annotated[npt.NDArray[np.float64], Array("batch", 3, ge=0)]
    age_years: int = 0

class Wider(BaseModel):
    features: Annotated[npt.NDArray[np.float64], Array("batch", 3)]
    age_years: float = 1

class Narrower(BaseModel):
    features: Annotated[npt.NDArray[np.float64], Array("batch", 3, ge=0, le=1)]
    age_years: int

class Checked(Old):
    @field_validator("age_years")
    @classmethod
    def sensible(cls, value):
        return value

@guarded
def predict(old: Old) -> Annotated[npt.NDArray[np.float64], Array("batch")]:
    return old.features[:, 0]

X = np.array([[1.0, 2.0]])
number = 3
"""


@pytest.fixture
def command(capsys, monkeypatch, tmp_path):
    """Exit status, standard output and standard error of one command, in a folder with a service."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "contract_service.py").write_text(CODE)
    (tmp_path / "broken_service.py").write_text("import contract_service\n1 / 0\n")
    (tmp_path / "needy_service.py").write_text("import no_such_package_at_all\n")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["mlguard", "schema", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return ended.value.code or 0, said.out, said.err

    yield run
    for name in ("contract_service", "broken_service", "needy_service"):
        sys.modules.pop(name, None)


def test_export_prints_json_schema(command):
    """Standard output is one JSON document and nothing else."""
    status, said, error = command("export", "contract_service:Old")
    assert (status, error) == (0, "")
    assert json.loads(said)["properties"]["features"]["shape"] == ["batch", 3]
    assert json.loads(command("export", "contract_service:predict")[1])["result"]["dtype"] == "float64"


def test_export_writes_the_file_it_was_asked_for(command, tmp_path):
    """-o replaces the file at once and prints nothing; a failure leaves the old one as it was."""
    assert command("export", "contract_service:Old", "-o", "old.json") == (0, "", "")
    before = (tmp_path / "old.json").read_text()
    assert json.loads(before)["title"] == "Old"
    assert command("export", "contract_service:number", "-o", "old.json")[0] == 2
    assert (tmp_path / "old.json").read_text() == before
    assert not list(tmp_path.glob(".*"))


def test_export_v2_has_name_versions_and_platform(command):
    """The options of the protocol reach the metadata."""
    told = json.loads(
        command(
            *("export", "contract_service:predict", "--format", "v2"),
            *("--name", "risk", "--version", "1", "--version", "2", "--platform", "sklearn_sklearn"),
        )[1]
    )
    assert (told["name"], told["versions"], told["platform"]) == ("risk", ["1", "2"], "sklearn_sklearn")
    assert [each["name"] for each in told["inputs"]] == ["features", "age_years"]
    assert told["outputs"] == [{"name": "result", "datatype": "FP64", "shape": [-1]}]
    assert json.loads(command("export", "contract_service:Old", "--format", "v2")[1])["name"] == "Old"


@pytest.mark.parametrize(
    ("new", "mode", "status", "verdict"),
    [
        ("Wider", "backward", 0, "compatible"),
        ("Wider", "forward", 1, "incompatible"),
        ("Wider", "full", 1, "incompatible"),
        ("Narrower", "backward", 1, "incompatible"),
        ("Narrower", "forward", 0, "compatible"),
        ("Checked", "backward", 2, "unknown"),
        ("Checked", "forward", 0, "compatible"),
    ],
)
def test_diff_ends_with_a_status_for_ci(command, new, mode, status, verdict):
    """0 breaks nobody, 1 breaks somebody, 2 can't be told; as text and as JSON."""
    ended, said, error = command("diff", "contract_service:Old", f"contract_service:{new}", "--mode", mode)
    assert (ended, error) == (status, "")
    assert said.rstrip().endswith(f"{verdict} ({mode})")
    ended, said, error = command("diff", "contract_service:Old", f"contract_service:{new}", "--mode", mode, "--json")
    assert (ended, error) == (status, "")
    assert json.loads(said)["verdict"] == verdict


def test_diff_says_what_differs_and_who_meets_it(command):
    """Field, verdict, rule and reason; then a sentence on who is refused."""
    said = command("diff", "contract_service:Old", "contract_service:Narrower")[1]
    assert "features" in said
    assert "the greatest value is 1.0 in the new schema, free in the old one" in said
    assert "became-required" in said
    assert "Callers made for the old schema are refused by a service with the new one." in said


def test_diff_may_be_told_to_overlook_what_it_can_not_judge(command):
    """--allow-unknown turns 2 into 0, and nothing else."""
    assert command("diff", "contract_service:Old", "contract_service:Checked", "--allow-unknown")[0] == 0
    assert command("diff", "contract_service:Old", "contract_service:Narrower", "--allow-unknown")[0] == 1


def test_diff_compares_files_code_and_standard_input(command, monkeypatch):
    """What `git show main:FILE` prints can be piped in."""
    command("export", "contract_service:Old", "-o", "old.json")
    assert command("diff", "old.json", "contract_service:Old") == (0, "compatible (backward)\n", "")
    monkeypatch.setattr(sys, "stdin", io.StringIO(Path("old.json").read_text()))
    assert command("diff", "-", "contract_service:Wider")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["export", "contract_service"], "names no object. Fix: MODULE:NAME"),
        (["export", "contract_service:"], "names no object"),
        (["export", "../evil:X"], "names no object"),
        (["export", "no_such_service:Old"], "there is no module 'no_such_service'"),
        (["export", "contract_service.sub:Old"], "there is no module 'contract_service.sub'"),
        (["export", "needy_service:Old"], "it needs no_such_package_at_all, which is not installed"),
        (["export", "broken_service:Old"], "importing broken_service fails: ZeroDivisionError"),
        (["export", "contract_service:Oldd"], "contract_service has no 'Oldd'. Did you mean 'Old'?"),
        (["export", "contract_service:Old.x.y"], "contract_service.Old has no 'x'"),
        (["export", "contract_service:number"], "an object of type int is no input class"),
        (["diff", "contract_service:Old", "absent.json"], "there is no file absent.json"),
        (["diff", "contract_service:Old", "absent"], "there is no file absent"),
        (["diff", "contract_service:Old", "empty.json"], "empty.json is empty"),
        (["diff", "contract_service:Old", "broken.json"], "broken.json is no JSON"),
        (["diff", "contract_service:Old", "list.json"], "list.json is no JSON Schema"),
        (["diff", "contract_service:Old", "deep.json"], "deep.json is"),
        (["diff", "contract_service:Old", "odd1.json"], "odd1.json: the schema: properties is []"),
        (["diff", "contract_service:Old", "odd2.json"], "odd2.json: a: must be an object or a boolean"),
        (["diff", "contract_service:Old", "odd3.json"], "odd3.json: a.b: multipleOf must be above 0"),
        (["diff", "contract_service:Old", "odd4.json"], "odd4.json: the schema: minimum is true"),
        (["diff", "contract_service:Old", "odd5.json"], "odd5.json: the schema: shape has [1], which is no dimension"),
        (["diff", "contract_service:Old", "odd6.json"], "odd6.json: the schema: shape has -1, which is no dimension"),
        (["diff", "contract_service:Old", "odd7.json"], "odd7.json: the schema: required must hold names"),
        (["diff", "contract_service:Old", "v2.json"], "v2.json is V2 metadata"),
        (["diff", "contract_service:Old", "latin.json"], "latin.json is no text in UTF-8"),
        (["diff", "contract_service:Old", "."], ". is a folder"),
        (["infer", "absent.csv"], "there is no file absent.csv"),
        (["infer", "empty.csv"], "empty.csv is empty"),
        (["infer", "contract_service:number"], "from which no class can be learnt"),
        (["infer", "contract_service:X", "--name", "1st"], "can't be the name of a class"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_every_error_is_one_line_and_status_two(command, tmp_path, arguments, words):
    """No traceback, the place, the fix, and a status that fails the job."""
    (tmp_path / "empty.json").write_text("")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "odd1.json").write_text('{"properties": []}')
    (tmp_path / "odd2.json").write_text('{"properties": {"a": 3}}')
    (tmp_path / "odd3.json").write_text('{"properties": {"a": {"properties": {"b": {"anyOf": [{"multipleOf": 0}]}}}}}')
    (tmp_path / "odd4.json").write_text('{"items": true, "minimum": true}')
    (tmp_path / "odd5.json").write_text('{"type": "array", "dtype": "int8", "shape": ["n", [1]]}')
    (tmp_path / "odd6.json").write_text('{"type": "array", "dtype": "int8", "shape": [-1]}')
    (tmp_path / "odd7.json").write_text('{"type": "object", "required": [5]}')
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "latin.json").write_bytes(b'{"type": "\xfc"}')
    (tmp_path / "v2.json").write_text('{"name": "m", "platform": "python", "inputs": [], "outputs": []}')
    status, said, error = command(*arguments)
    assert (status, said) == (2, "")
    assert words in error
    assert "Fix: " in error
    assert error.startswith("mlguard: ")
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["diff", "-", "-"], "only one of the two"),
        (["diff", "contract_service:Old"], "Missing argument"),
        (["diff", "contract_service:Old", "contract_service:Old", "--mode", "sideways"], "sideways"),
        (["export", "contract_service:Old", "--version", "1"], "belong to --format v2"),
        (["export", "contract_service:Old", "-o", "no/such/file.json"], "does not exist"),
        (["export", "contract_service:Old", "-o", "."], "is a folder"),
        (["infer", "contract_service:X", "--delimiter", "ab"], "is not one character"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_a_bad_command_line_is_refused(command, arguments, words):
    """Before anything is read or written."""
    status, _, error = command(*arguments)
    assert status == 2
    assert words in error


def test_a_file_that_can_not_be_written_is_an_error(command, monkeypatch):
    """A full disk is told, not a traceback."""

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    status, _, error = command("export", "contract_service:Old", "-o", "old.json")
    assert status == 2
    assert "old.json can't be written: No space left on device" in error


def test_infer_prints_a_class_that_runs(command, tmp_path):
    """Standard output is Python and nothing else; what it says of progress goes to standard error."""
    status, said, error = command("infer", "contract_service:X", "--name", "Input", "--margin", "0")
    assert (status, error) == (0, "")
    assert 'values: Annotated[npt.NDArray[np.float64], Array("batch", 2, finite=True, ge=1.0, le=2.0)]' in said
    assert command("infer", "contract_service:X", "-o", "learnt.py") == (0, "", "")
    assert "class X(BaseModel):" in (tmp_path / "learnt.py").read_text()


def test_infer_tells_progress_on_a_big_file(command, tmp_path, monkeypatch):
    """A line every two seconds, on standard error."""
    (tmp_path / "big.csv").write_text("a\n" + "1\n" * 25_000)
    seconds = iter(range(0, 100, 3))
    monkeypatch.setattr(clock, "now", lambda: float(next(seconds)))
    status, said, error = command("infer", "big.csv")
    assert status == 0
    assert error == "10,000 rows so far\n20,000 rows so far\n"
    assert said.startswith("# Learnt from big.csv: 25,000 rows")


def test_a_process_of_its_own(tmp_path):
    """The console script finds a service in the folder it was started in."""
    (tmp_path / "contract_service.py").write_text(CODE)
    ended = subprocess.run(
        [sys.executable, "-m", "mlguard.cli", "schema", "diff", "contract_service:Old", "contract_service:Narrower"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1, ended.stderr
    assert "incompatible (backward)" in ended.stdout
