"""SQL over a record: columns, their types, keys of one's own, and files that are not as they should be."""

from __future__ import annotations

import _thread
import datetime
import gzip
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from mlguard.monitor.event import Event
from mlguard.record import Calls, Record, Recorder, RecordError, open_calls
from mlguard.record.columns import COLUMNS
from tests.record.calls import event, failure, write


def rows(calls: Calls, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
    return list(calls.sql(query, parameters).rows)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two files, one of them packed: 100 calls, every tenth a failure."""
    record = tmp_path / "record"
    record.mkdir()
    events = [failure(n) if n % 10 == 0 else event(n, mlguard__input__age=20 + n / 2) for n in range(100)]
    write(record / "calls-2.jsonl", *events[50:])
    packed = write(record / "calls-1.jsonl", *events[:50])
    (record / "calls-1.jsonl.gz").write_bytes(gzip.compress(packed.read_bytes()))
    packed.unlink()
    return record


def test_every_column_of_an_event() -> None:
    """What the event declares has a column, or is reached by its key."""
    declared = {field.alias or name for name, field in Event.model_fields.items()}
    assert {column.key for column in COLUMNS} - declared <= {
        "timestamp", "mlguard.prediction", "trace_id", "span_id", "process.pid", "host.name",
    }  # fmt: skip


def test_calls_as_a_table(folder) -> None:
    """Short names have the types they declare, whatever the order of the lines."""
    with open_calls(folder) as calls:
        result = calls.sql("SELECT * FROM calls WHERE call_id = 'id000010'")
        (row,) = result.rows
        found = dict(zip(result.columns, row, strict=True))
        assert result.columns[:6] == ["time", "function", "policy", "outcome", "disposition", "duration"]
        assert result.types[0] == "TIMESTAMP"
        assert found["outcome"] == "failure"
        assert found["duration"] == 0.01
        assert found["attempts"] == 1
        assert found["time"] == datetime.datetime(2026, 11, 30, 10, 0, 10)
        assert found["violations"] == [{"loc": "patient.features", "type": "array_range", "msg": "must be >= 0"}]
        assert found["weight"] == 1.0
        assert found["degraded"] is None
        assert Path(found["file"]).name == "calls-1.jsonl.gz"
        assert found["json"].startswith('{"timestamp"')
        assert rows(calls, "SELECT outcome, count(*) FROM calls GROUP BY ALL ORDER BY 1") == [
            ("failure", 10), ("success", 90),
        ]  # fmt: skip
        assert rows(calls, "SELECT field, count(*) FROM violations GROUP BY ALL") == [("patient.features", 10)]
        assert rows(calls, "SELECT count(*) FROM calls WHERE time > now() - INTERVAL 1 hour") == [(0,)]


def test_types_that_do_not_fit_are_null(tmp_path) -> None:
    """A line that says something else under a known key costs that value only, never the line or the query."""
    path = write(
        tmp_path / "odd.jsonl",
        event(1, mlguard__duration="soon", timestamp="yesterday", mlguard__violations="none", mlguard__slow=7),
        event(2, mlguard__duration=None, timestamp=1_796_000_000.5, mlguard__policy=["a"], mlguard__slow=True),
        event(3, mlguard__schema_version=99, mlguard__new={"deep": [1]}),
    )
    with open_calls(path) as calls:
        found = rows(calls, "SELECT call_id, duration, time, violations, slow, policy FROM calls ORDER BY call_id")
        assert found[0] == ("id000001", None, None, None, None, "realtime")
        assert found[1] == ("id000002", None, datetime.datetime(2026, 11, 30, 0, 53, 20, 500_000), None, True, '["a"]')
        assert rows(calls, """SELECT json->>'$."mlguard.new".deep[0]' FROM calls WHERE call_id = 'id000003'""") == [
            ("1",)
        ]


def test_any_key_is_a_column(tmp_path) -> None:
    """A key that a query names is a column, of the type that the events give it, however odd its name."""
    path = write(
        tmp_path / "a.jsonl",
        event(1, mlguard__input__x=1, region="north", ok=True, shape=[2, 3], mixed=1),
        event(2, mlguard__input__x=2.5, region="süd", ok=False, shape=[4], mixed="one"),
        event(3, mlguard__input__x="nan"),
        event(4) | {'odd "na\'me"/~x': 5, "größe": 3},
        event(5, mlguard__attempts=2),
    )
    with open_calls(path) as calls:
        assert rows(calls, 'SELECT max("mlguard.input.x") FROM calls WHERE NOT isnan("mlguard.input.x")') == [(2.5,)]
        assert rows(calls, "SELECT c.region FROM calls c WHERE ok ORDER BY ALL") == [("north",)]
        assert rows(calls, "SELECT region FROM calls WHERE region = 'süd'") == [("süd",)]
        assert rows(calls, "SELECT shape->>0 FROM calls WHERE call_id = 'id000002'") == [("4",)]
        assert rows(calls, "SELECT mixed FROM calls WHERE call_id = 'id000002'") == [('"one"',)]
        assert rows(calls, 'SELECT sum("odd ""na\'me""/~x"), sum(größe) FROM calls') == [(5.0, 3.0)]
        assert rows(calls, 'SELECT max("mlguard.attempts"), max("event.outcome") FROM calls') == [(2, "success")]
        assert rows(calls, "WITH q AS (SELECT region AS r FROM calls) SELECT count(r) FROM q") == [(2,)]
        assert rows(calls, "SELECT * EXCLUDE (region) FROM calls LIMIT 0") == []


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("SELECT polcy FROM calls", "Did you mean 'policy'?"),
        ('SELECT "no.such.key" FROM calls', 'no column and no key of an event is called "no.such.key"'),
        ("SELECT x FROM calls", "Columns: time, function"),
        ("SELEC 1", 'syntax error at or near "SELEC"\nLINE 1: SELEC 1\n        ^'),
        ("SELECT nope(1) FROM calls", "nope"),
        ("SELECT * FROM call", "Table with name call does not exist"),
        ("SELECT mlguard.policy FROM calls", 'in double quotes: "mlguard.policy"'),
        ("SELECT sum(policy) FROM calls", "sum(VARCHAR)"),
        ("SELECT CAST('x' AS INTEGER)", "Could not convert"),
        ("", "one statement"),
        ("SELECT 1; SELECT 2", "one statement"),
        ("SELECT ?", "parameters"),
    ],
)
def test_wrong_sql(folder, query: str, said: str) -> None:
    """An error says where, and what there is instead; never a traceback of DuckDB's."""
    with open_calls(folder) as calls:
        with pytest.raises(RecordError) as caught:
            calls.sql(query)
        assert said in str(caught.value)
        assert rows(calls, "SELECT count(*) FROM calls") == [(100,)]


def test_damaged_lines_are_counted(tmp_path) -> None:
    """What is no JSON object is in no query, and is counted, the first with file and line."""
    good = b'{"mlguard.call_id":"a"}\n'
    path = tmp_path / "calls-a.jsonl"
    path.write_bytes(
        good + b'{"mlguard.call_id":"torn\n' + b"\n" + b'{"mlguard.call_id": \xff\xfe}\n' + b"\0\0\0\0\n"
        b'{"mlguard.call_id":"x\x01y"}\n' + b"null\n[1]\n" + b'{"mlguard.call_id":}\n' + good + b'{"mlguard.call'
    )  # fmt: skip
    os.utime(path, (time.time() - 60,) * 2)
    with open_calls(path) as calls:
        assert rows(calls, "SELECT call_id FROM calls") == [("a",), ("a",)]
        damage = calls.damage()
        assert damage.first == f"{path}:2"
        assert damage.lines == 8
    write(tmp_path / "b.jsonl", event())
    with open_calls(tmp_path / "b.jsonl") as calls:
        assert calls.damage() == (0, None)


def test_a_line_on_its_way_is_no_damage(tmp_path) -> None:
    """The last line of a file that is being written may be a piece."""
    path = write(tmp_path / "calls-a.jsonl", event())
    with path.open("ab") as file:
        file.write(b'{"half')
    with open_calls(path) as calls:
        assert calls.damage().lines == 0
        os.utime(path, (time.time() - 60,) * 2)
        assert calls.damage() == (1, f"{path}:2")


@pytest.mark.parametrize("how", ["cut", "flipped", "empty", "no gzip at all"])
def test_broken_packed_files(folder, how: str) -> None:
    """Of a packed file that is broken what can be unpacked counts, and the damage says where it breaks off."""
    path = folder / "calls-3.jsonl.gz"
    whole = gzip.compress(b"".join(b'{"mlguard.call_id":"p%06d"}\n' % number for number in range(90_000)))
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes(255 - byte for byte in whole[middle : middle + 50]) + whole[middle + 50 :]
    path.write_bytes({"cut": whole[:middle], "flipped": flipped, "empty": b"", "no gzip at all": b"hello" * 20}[how])
    with open_calls(folder) as calls:
        ((found,),) = rows(calls, "SELECT count(*) FROM calls")
        assert found > 1_000 if how in ("cut", "flipped") else found == 100
        assert calls.damage().lines == 1
        assert str(calls.damage().first).startswith(f"{path}:")


def test_what_was_packed_twice_counts_once(folder) -> None:
    """Where a crash left a file and its packed twin, only one of them is read."""
    (folder / "calls-1.jsonl").write_bytes(gzip.decompress((folder / "calls-1.jsonl.gz").read_bytes()))
    with open_calls(folder) as calls:
        assert rows(calls, "SELECT count(*) FROM calls") == [(100,)]


def test_lines_that_are_no_calls(tmp_path) -> None:
    """In an application's own log the other lines are neither calls nor damage; Windows line ends are no matter."""
    path = tmp_path / "app.log"
    path.write_bytes(b'{"event": "started"}\r\n{"event": "mlguard.call", "mlguard.call_id": "a"}\r\n')
    with open_calls(path) as calls:
        assert rows(calls, "SELECT call_id FROM calls") == [("a",)]
        assert calls.damage().lines == 0


@pytest.mark.parametrize("name", ["a[1]*.jsonl", "it's.jsonl", "ünï.jsonl", "a b?.jsonl", "{x}.jsonl"])
def test_files_of_any_name(tmp_path, name: str) -> None:
    """A name with quotes or with what patterns are made of is a name."""
    write(tmp_path / name, event(1))
    write(tmp_path / "a1x.jsonl", event(2))
    with open_calls(tmp_path / name) as calls:
        assert rows(calls, "SELECT call_id FROM calls") == [("id000001",)]


def test_paths_and_patterns(folder, tmp_path) -> None:
    """Folders below, several paths and patterns are read, each file once."""
    (tmp_path / "record" / "below").mkdir()
    write(tmp_path / "record" / "below" / "calls-9.jsonl", event(900))
    with open_calls(tmp_path / "record") as calls:
        assert rows(calls, "SELECT count(*) FROM calls") == [(101,)]
    with open_calls([folder / "calls-2.jsonl", str(folder / "calls-*")]) as calls:
        assert len(calls.files) == 2
        assert rows(calls, "SELECT count(*) FROM calls") == [(100,)]


def test_paths_that_lead_nowhere(tmp_path) -> None:
    """No folder, and a folder without a record, are told apart, with the fix."""
    with pytest.raises(RecordError, match=r"there is no .*nope. Fix: give the folder that Monitor\(record=...\) names"):
        open_calls(tmp_path / "nope")
    with pytest.raises(RecordError, match="holds no record"):
        open_calls(tmp_path)


def test_only_files_of_the_time_are_read(tmp_path) -> None:
    """Segments that ended before, or began after, the time that is asked for are not opened."""
    begun = {"20261130T100000.000000Z": 11, "20261130T110000.000000Z": 12, "20261130T120000.000000Z": 13}
    for stamp, hour in begun.items():
        path = write(tmp_path / f"calls-{stamp}-1-abc.jsonl", event(hour))
        end = datetime.datetime(2026, 11, 30, hour, tzinfo=datetime.UTC).timestamp()
        os.utime(path, (end, end))
    since = datetime.datetime(2026, 11, 30, 11, 30, tzinfo=datetime.UTC)
    with open_calls(tmp_path, since=since) as calls:
        assert len(calls.files) == 2
    with open_calls(tmp_path, since=since, until=datetime.datetime(2026, 11, 30, 11, 45)) as calls:
        assert len(calls.files) == 1
    with open_calls(tmp_path, since=datetime.datetime(2027, 1, 1)) as calls:
        assert rows(calls, "SELECT count(*) FROM calls WHERE time >= '2027-01-01'") == [(0,)]


def test_rows_of_an_earlier_query(folder) -> None:
    """Rows that were not fetched before the next query are refused rather than mixed up with its own."""
    with open_calls(folder) as calls:
        many = calls.sql("SELECT r FROM range(100000) AS t(r)")
        next(many.rows)
        calls.sql("SELECT 1")
        with pytest.raises(RecordError, match="another query"):
            list(many.rows)


def test_a_reader_beside_a_writer(tmp_path) -> None:
    """While files are written, packed and removed, a query sees whole calls, each once, and no error."""
    record = tmp_path / "record"
    writer = Recorder(Record(path=str(record), max_bytes="2MiB"))
    stop = threading.Event()
    writer.put(event(0))
    assert writer.flush()

    def write_on() -> None:
        number = 1
        while not stop.is_set():
            for _ in range(50):
                writer.put(event(number, pad="x" * 300))
                number += 1
            writer.flush()
            stop.wait(0.01)  # else files come and go faster than anybody could open them

    thread = threading.Thread(target=write_on)
    thread.start()
    try:
        until = time.monotonic() + 2
        seen = 0
        while time.monotonic() < until or seen < 1_000:
            with open_calls(record) as calls:
                ((found, different),) = rows(calls, "SELECT count(*), count(DISTINCT call_id) FROM calls")
                assert found == different
                assert calls.damage().lines == 0
                seen = max(seen, found)
    finally:
        stop.set()
        thread.join()
        writer.close()
    assert writer.stats()["last_error"] is None


def test_what_is_kept_is_a_table(folder) -> None:
    """Rows that many queries ask for are read once."""
    with open_calls(folder) as calls:
        calls.keep("refused", "SELECT call_id FROM calls WHERE disposition = ?", ["rejected_validation"])
        assert rows(calls, "SELECT count(*) FROM refused") == [(10,)]
        with pytest.raises(RecordError, match="let it be a SELECT"):
            calls.keep("x", "DROP VIEW calls")
        with pytest.raises(RecordError, match=r'"nope"'):
            calls.keep("x", "SELECT nope FROM calls")


@pytest.mark.parametrize("watched", [True, False])
def test_ctrl_c_ends_a_query(folder, watched: bool) -> None:
    """A query that takes long ends at once where a person has seen enough, and the next one works."""
    told: list[float] = []

    def interrupt() -> None:
        _thread.interrupt_main()

    with open_calls(folder, progress=told.append if watched else None) as calls:
        timer = threading.Timer(0.6, interrupt)
        timer.start()
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            calls.sql("SELECT count(*) FROM range(1000000) a(x), range(1000000) b(y) WHERE x * y % 7 = 3")
        assert time.monotonic() - started < 30
        assert rows(calls, "SELECT count(*) FROM calls") == [(100,)]
    assert bool(told) is watched
    assert all(0 <= share <= 1 for share in told)


def test_a_duckdb_that_is_too_old(folder, monkeypatch) -> None:
    """It is named, with the fix."""
    monkeypatch.setattr("duckdb.__version__", "1.1.3")
    with pytest.raises(RecordError, match=r"DuckDB 1.1.3 is too old. Fix: pip install 'duckdb>=1.4'"):
        open_calls(folder)


def test_a_file_that_breaks_off_while_it_is_fetched(tmp_path) -> None:
    """Rows that are not sorted come while the file is read; what is broken is said then, or was mended before."""
    whole = gzip.compress(b"".join(b'{"mlguard.call_id":"p%06d"}\n' % number for number in range(600_000)))
    (tmp_path / "calls-1.jsonl.gz").write_bytes(whole[: len(whole) * 9 // 10])
    with open_calls(tmp_path) as calls:
        found = calls.sql("SELECT call_id FROM calls").rows
        said = ""
        number = 0
        try:
            for _ in found:
                number += 1
        except RecordError as error:
            said = str(error)
        assert "What came before it is not all" in said or (calls.damage().lines == 1 and number > 500_000)
        assert number < 600_000


@pytest.mark.parametrize("links", [True, False])
def test_a_query_reads_what_was_there(folder, monkeypatch, links: bool) -> None:
    """Files that go while a record is open are read all the same, or, without links, what is there then is read."""
    if not links:

        def refuse(*_: Any) -> None:
            raise OSError("another file system")

        monkeypatch.setattr("os.link", refuse)
    with open_calls(folder) as calls:
        (folder / "calls-2.jsonl").unlink()
        assert rows(calls, "SELECT count(*) FROM calls") == [(100 if links else 50,)]
        assert rows(calls, "SELECT DISTINCT parse_filename(file) FROM calls ORDER BY 1")[0] == ("calls-1.jsonl.gz",)
