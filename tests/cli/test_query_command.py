"""`mlguard query`: what a person at 3 AM types, what a program reads, and what neither may do to a terminal."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from mlguard.cli.app import app
from mlguard.cli.progress import Progress
from mlguard.record import search
from tests.record.calls import event, failure, write

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def run(*words: object, columns: int = 140) -> Result:
    return CliRunner().invoke(app, ["query", *map(str, words)], env={"COLUMNS": str(columns), "NO_COLOR": "1"})


def ids(result: Result) -> list[str]:
    return [json.loads(line)["mlguard.call_id"] for line in result.stdout.splitlines()]


def ago(**how_long: float) -> str:
    return (datetime.now(UTC) - timedelta(**how_long)).isoformat()


@pytest.fixture
def folder(tmp_path) -> Path:
    """Calls of two services and three days."""
    record = tmp_path / "record"
    record.mkdir()
    write(
        record / "calls-a.jsonl",
        event(1, timestamp=ago(days=2)),
        failure(2, timestamp=ago(hours=3)),
        failure(3, timestamp=ago(minutes=20), field="patient.features.3"),
        failure(4, timestamp=ago(minutes=15), field="patients"),
        failure(5, timestamp=ago(minutes=10), mlguard__policy="batch"),
        event(6, timestamp=ago(minutes=5), mlguard__duration=0.75, trace_id="abc", mlguard__slow=True),
        event(
            7,
            timestamp=ago(minutes=4),
            code__function__name="service.Model.score",
            mlguard__parent_call_id="id000006",
            event__outcome="failure",
            mlguard__disposition="failed",
            error__type="KeyError",
            exception__message="'x'",
            exception="Traceback (most recent call last):\n  File ...\nKeyError: 'x'",
        ),
    )
    return record


def test_what_a_person_types_first(folder) -> None:
    """Failures of a policy in the last hour that broke a field, or one below it."""
    found = run(folder, "--policy", "realtime", "--outcome", "failure", "--since", "1h", "--field", "patient.features")
    assert found.exit_code == 0, found.output
    assert "id000003" in found.stdout
    assert "InvalidInputError: patient.features.3: must be >= 0" in found.stdout
    assert not re.search("id00000[124567]", found.stdout)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "7654321"),
        (("--since", "1h"), "76543"),
        (("--until", "1h"), "21"),
        (("--since", "4h", "--until", "12m"), "432"),
        (("--outcome", "success"), "61"),
        (("--disposition", "rejected"), "5432"),
        (("--disposition", "rejected_validation", "--policy", "batch"), "5"),
        (("--function", "service.predict"), "654321"),
        (("--function", "score"), "7"),
        (("--function", "Model.score"), "7"),
        (("--function", "core"), ""),
        (("--error", "InvalidInputError"), "5432"),
        (("--error", "mlguard.errors.InvalidInputError", "-n", 2), "54"),
        (("--error", "KeyError"), "7"),
        (("--field", "patient.features"), "532"),
        (("--field", "patient"), "532"),
        (("--field", "patients"), "4"),
        (("--field", "features"), ""),
        (("--slow", "500ms"), "6"),
        (("--call-id", "id000006"), "76"),
        (("--trace-id", "abc"), "6"),
        (("--policy", "realtime'; --"), ""),
        (("-n", 3), "765"),
    ],
)
def test_filters(folder, words: tuple[object, ...], expected: str) -> None:
    """Each condition means what it says, all of them together, the newest call first, whole events for programs."""
    found = run(folder, *words, "--json")
    assert ids(found) == [f"id00000{digit}" for digit in expected]
    assert found.exit_code == (0 if expected else 1)


def test_one_call_with_everything(folder) -> None:
    """A call that is asked for by its id is shown field by field, its traceback on lines of its own, with its calls."""
    found = run(folder, "--call-id", "id000006")
    assert found.exit_code == 0
    assert re.search(r"mlguard.duration +0.75 *\n", found.stdout)
    assert "Traceback (most recent call last):" in found.stdout
    assert re.search(r"\n +File \.\.\. *\n", found.stdout)


def test_a_narrow_terminal(folder) -> None:
    """At 80 columns ids and times are whole, and the module of a function goes."""
    found = run(folder, columns=80)
    assert "id000007" in found.stdout
    assert "service.predict" not in found.stdout
    assert "slow" in found.stdout
    assert max(map(len, found.stdout.splitlines())) <= 80


def test_count(folder) -> None:
    """--count is a number, also for programs."""
    assert run(folder, "--count", "--outcome", "failure").stdout == "5\n"
    assert json.loads(run(folder, "--count", "--json").stdout) == {"calls": 7}
    none = run(folder, "--count", "--policy", "nope")
    assert (none.stdout, none.exit_code) == ("0\n", 1)


def test_nothing_found_says_what_was_searched(folder) -> None:
    """Files, calls, their time, and the names that there are."""
    found = run(folder, "--policy", "realtim", "--since", "1d")
    assert found.exit_code == 1
    assert found.stdout == ""
    assert "no call has policy = realtim" in found.stderr
    assert "Searched: 7 calls in 1 file of " in found.stderr
    assert "policy is one of: batch, realtime" in found.stderr
    (folder / "calls-a.jsonl").write_text("")
    assert "0 calls in 1 file" in run(folder).stderr


def test_sql(folder) -> None:
    """A query of one's own as a table, as JSON and as CSV; any key of an event is a column."""
    query = (
        "SELECT policy, count(*) AS n, avg(duration) AS d FROM calls WHERE outcome = 'failure' GROUP BY ALL ORDER BY n"
    )
    table = run(folder, "--sql", query)
    assert table.exit_code == 0, table.output
    assert re.search(r"batch +1 +0.005", table.stdout)
    lines = [json.loads(line) for line in run(folder, "--sql", query, "--json").stdout.splitlines()]
    assert lines[0] == {"policy": "batch", "n": 1, "d": 0.005}
    rows = list(csv.reader(io.StringIO(run(folder, "--sql", query, "--csv").stdout)))
    assert rows[:2] == [["policy", "n", "d"], ["batch", "1", "0.005"]]
    assert run(folder, "--sql", 'SELECT "trace_id" FROM calls WHERE trace_id IS NOT NULL').exit_code == 0
    none = run(folder, "--sql", "SELECT 1 FROM calls WHERE false")
    assert (none.exit_code, none.stderr) == (1, "mlguard: the query found no rows.\n")


def test_rows_that_are_too_wide(folder) -> None:
    """Where the columns can't stand side by side, a row is shown a column a line."""
    found = run(folder, "--sql", "SELECT * FROM calls WHERE call_id = 'id000007'", columns=80)
    assert re.search(r"\nfunction +service.Model.score *\n", found.stdout)
    assert re.search(r"\noutcome +failure *\n", found.stdout)


def test_every_type_of_duckdb(folder) -> None:
    """Times say that they are UTC; what JSON has no words for becomes text, also in tables and CSV."""
    query = (
        "SELECT TIMESTAMP '2026-01-02 03:04:05' AS t, 1.5::DECIMAL(4,1) AS x, DATE '2026-01-02' AS d, "
        "INTERVAL 90 SECOND AS i, 'ab'::BLOB AS b, {'k': [1, NULL]} AS s, 'nan'::DOUBLE AS n, NULL AS z, "
        "uuid() AS u, true AS y, 170141183460469231731687303715884105727::HUGEINT AS h"
    )
    found = json.loads(run(folder, "--sql", query, "--json").stdout)
    assert len(found.pop("u")) == 36
    assert found == {
        "t": "2026-01-02T03:04:05Z", "x": 1.5, "d": "2026-01-02", "i": 90.0, "b": "YWI=", "s": {"k": [1, None]},
        "n": "nan", "z": None, "y": True, "h": 2**127 - 1,
    }  # fmt: skip
    assert "2026-01-02 03:04:05.000" in run(folder, "--sql", query, columns=300).stdout
    assert "2026-01-02 03:04:05.000" in run(folder, "--sql", query, columns=80).stdout
    assert '"{""k"": [1, null]}"' in run(folder, "--sql", query, "--csv").stdout


def test_many_rows_are_cut_in_a_table_only(folder) -> None:
    """A table ends after a thousand rows and says so."""
    table = run(folder, "--sql", "SELECT * FROM range(1500) AS t(number)")
    assert "The first 1,000 rows" in table.stderr
    assert len(run(folder, "--sql", "SELECT * FROM range(1500) AS t(number)", "--json").stdout.splitlines()) == 1_500


def test_calls_as_csv(folder) -> None:
    """One row a call, with the columns that SQL has."""
    rows = list(csv.DictReader(io.StringIO(run(folder, "--csv").stdout)))
    assert len(rows) == 7
    assert rows[0]["error"] == "KeyError"
    assert rows[0]["traceback"].count("\n") == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--sql", "SELECT polcy FROM calls"), "Did you mean 'policy'?"),
        (("--sql", "SELECT FROM WHERE"), "LINE 1: SELECT FROM WHERE"),
        (("--sql", "DROP VIEW calls"), "let it be a SELECT"),
        (("--sql", "SELECT * FROM read_text('/etc/passwd')"), "file system operations are disabled"),
        (("--sql", "SELECT 1", "--policy", "x"), "--sql says everything itself"),
        (("--sql", "SELECT 1", "--count"), "--sql says everything itself"),
        (("--json", "--csv"), "not both"),
        (("--follow", "--count"), "shows calls as they come"),
        (("--since", "yesterday"), "is no time"),
        (("--slow", "quick"), "must be a duration"),
        (("--disposition", "rejcted"), "none of executed"),
        (("--outcome", "bad"), "bad"),
        (("--limit", "0"), "limit"),
    ],
)
def test_errors_end_with_two(folder, words: tuple[str, ...], said: str) -> None:
    """What is wrong, where, and what to do; status 2."""
    found = run(folder, *words)
    assert found.exit_code == 2
    assert said in re.sub(r"[\s│]+", " ", found.output)


def test_no_such_folder(tmp_path) -> None:
    """A path that leads nowhere is an error with the fix."""
    found = run(tmp_path / "nope")
    assert found.exit_code == 2
    assert "Fix: give the folder that Monitor(record=...) names" in found.stderr


def test_damage_is_told(folder) -> None:
    """Lines left out are counted on standard error, the first by file and line; what is whole is found."""
    path = folder / "calls-a.jsonl"
    path.write_bytes(path.read_bytes() + b'{"torn\n{"torn again')
    os.utime(path, (time.time() - 60,) * 2)
    found = run(folder, "--json")
    assert len(found.stdout.splitlines()) == 7
    assert f"mlguard: 2 lines are damaged and left out, the first at {path}:8." in found.stderr


HOSTILE = "\x1b[31mred\x1b]0;title\x07\x9b2J\u202egnp.exe\u2066\x00\x08\r[bold]not[/bold]"


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--call-id", "id000001"),
        ("--json",),
        ("--csv",),
        ("--sql", "SELECT * FROM calls"),
        ("--sql", "SELECT policy, json FROM calls", "--json"),
        ("--sql", "SELECT note FROM calls", "--csv"),
        ("--sql", 'SELECT 1 AS "\x1b[31mred"'),
        ("--sql", 'SELECT "\x1b[31mred"'),
        ("--policy", "\x1b[31mx"),
    ],
)
def test_a_terminal_is_safe(tmp_path, words: tuple[str, ...]) -> None:
    """No text of a caller's or an exception's reaches the terminal as an order, in any form of output."""
    hostile = {
        "mlguard.policy", "code.function.name", "error.type", "exception.message", "exception", "note", HOSTILE,
    }  # fmt: skip
    write(tmp_path / "a.jsonl", failure(1, field=HOSTILE) | dict.fromkeys(hostile, HOSTILE))
    found = run(tmp_path, *words, columns=200)
    assert not CONTROL.search(found.output)
    if found.exit_code == 0 and "red" not in words[-1:]:
        assert "31mred" in found.stdout
    if words == ("--json",):
        assert json.loads(found.stdout)["note"] == HOSTILE


def test_odd_events_are_shown(tmp_path) -> None:
    """Fields of a type that nobody expects are shown, not tripped over."""
    write(
        tmp_path / "a.jsonl",
        event(1, mlguard__duration="soon", mlguard__violations=[1, {"loc": None}], mlguard__anomalies=["x: high"]),
        event(2, mlguard__duration=1e400, mlguard__policy=None, code__function__name=[1], timestamp=17),
        {"mlguard.call_id": 3},
    )
    found = run(tmp_path)
    assert found.exit_code == 0, found.output
    assert "x: high" in found.stdout


def test_the_newest_are_found_without_reading_all(tmp_path, monkeypatch) -> None:
    """The last files come first; the others are read only where those have too few, or may hold something newer."""
    monkeypatch.setattr(search, "_AT_FIRST", 1)
    looked: list[int] = []
    calls = search.Calls

    def counted(look: Any, progress: Any = None) -> Any:
        made = calls(look, progress)
        looked.append(len(made.files))
        return made

    monkeypatch.setattr(search, "Calls", counted)
    now = time.time()
    for number in range(4):
        when = datetime.fromtimestamp(now - 1_000 * number, UTC).isoformat()
        path = write(tmp_path / f"calls-{number}.jsonl", *(event(10 * number + n, timestamp=when) for n in range(5)))
        os.utime(path, (now - 1_000 * number,) * 2)
    assert ids(run(tmp_path, "--json", "-n", 5)) == [f"id{number:06d}" for number in range(5)]
    assert looked == [1]
    assert len(ids(run(tmp_path, "--json", "-n", 7))) == 7
    assert looked == [1, 1, 4]


@pytest.mark.parametrize("terminal", [True, False])
def test_progress(capsys, monkeypatch, terminal: bool) -> None:
    """What takes longer than a second says on standard error how far it is; on a terminal in one line, which goes."""
    now = 0.0
    monkeypatch.setattr("mlguard.clock.now", lambda: now)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    with Progress() as progress:
        for share in (0.1, 0.2, 0.3, 0.4):
            progress(share)
            now += 0.9
        progress(0.5)
    said = capsys.readouterr().err
    assert "10%" not in said
    assert ("50%" if terminal else "40%") in said
    assert said.endswith("\r") is terminal


@pytest.mark.skipif(sys.platform == "win32", reason="interrupts as POSIX does")
def test_follow(tmp_path) -> None:
    """Calls are shown as they come, each once, the oldest first; Ctrl-C ends it with 0 where there were some."""
    record = tmp_path / "record"
    record.mkdir()
    path = write(record / "calls-a.jsonl", failure(1, timestamp=ago(hours=2)), failure(2, timestamp=ago(minutes=1)))
    words = ["query", str(record), "--follow", "--since", "1h", "--outcome", "failure"]
    with subprocess.Popen([sys.executable, "-m", "mlguard.cli", *words], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "id000002" in process.stdout.readline()
        with path.open("a") as file:
            for one in (event(3, timestamp=ago()), failure(4, timestamp=ago())):
                file.write(json.dumps(one) + "\n")
        said = process.stdout.readline()
        assert "id000004" in said
        assert "InvalidInputError: patient.features: must be >= 0" in said
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == ""
    assert process.returncode == 0


def test_a_program_that_stops_reading(folder) -> None:
    """`mlguard query ... | head -1` ends quietly."""
    command = [
        sys.executable,
        "-m",
        "mlguard.cli",
        "query",
        str(folder),
        "--json",
        "--sql",
        "SELECT * FROM range(300000) t(r)",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == '{"r": 0}\n'
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()


def test_without_duckdb(folder) -> None:
    """Without the extra one line says what to install."""
    code = (
        "import sys; sys.modules['duckdb'] = None; sys.argv[:1] = ['mlguard', 'query']; "
        "from mlguard.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "mlguard query needs duckdb, which is not installed. Fix: pip install duckdb (mlguard's extra 'query').\n"
    )
