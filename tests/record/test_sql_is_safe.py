"""SQL over a record reads the record and nothing else, and changes nothing."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from mlguard.record import RecordError, open_calls
from tests.record.calls import event, write

ATTEMPTS = [
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM read_blob('/etc/passwd')",
    "SELECT * FROM read_json_objects('/etc/passwd')",
    "SELECT * FROM read_parquet('/etc/passwd')",
    "SELECT * FROM glob('/etc/*')",
    "SELECT * FROM sniff_csv('/etc/passwd')",
    "SELECT * FROM read_text('SECRET')",
    "SELECT * FROM read_text('RECORD/../secret.txt')",
    "SELECT * FROM read_text('file:///etc/passwd')",
    "SELECT * FROM 'https://example.invalid/x.csv'",
    "SELECT * FROM read_csv('s3://bucket/x.csv')",
    "SELECT (SELECT content FROM read_text('/etc/passwd'))",
    "WITH x AS MATERIALIZED (SELECT * FROM read_text('/etc/passwd')) SELECT * FROM x",
    "SELECT * FROM query('SELECT * FROM read_text(''/etc/passwd'')')",
    "SELECT * FROM query_table('/etc/passwd')",
    "SELECT getenv('PATH')",
    "SELECT * FROM event",
    "SELECT * FROM duckdb_secrets()",
    "COPY (SELECT 1) TO 'OUT'",
    "COPY calls TO 'RECORD/calls-a.jsonl'",
    "COPY (SELECT 1) TO 'RECORD/calls-a.jsonl' (FORMAT csv)",
    "EXPORT DATABASE 'OUT'",
    "ATTACH 'OUT'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "INSTALL 'OUT'",
    "SET enable_external_access = true",
    "RESET lock_configuration",
    "SET allowed_paths = ['/etc/passwd']",
    "PRAGMA database_list",
    "CALL pragma_database_list()",
    "CREATE TABLE x AS SELECT 1",
    "DROP VIEW calls",
    "DELETE FROM calls",
    "INSERT INTO calls VALUES (1)",
    "PREPARE x AS SELECT 1",
    "EXPLAIN ANALYZE SELECT 1",
    "CHECKPOINT",
    "SELECT 1; COPY (SELECT 1) TO 'OUT'",
    "SELECT 1 /* ; */; DROP VIEW calls; --",
]


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_nothing_else_is_reached(tmp_path, monkeypatch, attempt: str) -> None:
    """Files, network, settings, extensions, Python's variables and other statements than SELECT are refused."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "record").mkdir()
    path = write(tmp_path / "record" / "calls-a.jsonl", event(1))
    before = path.read_bytes()
    (tmp_path / "secret.txt").write_text("secret")
    names = {"SECRET": tmp_path / "secret.txt", "RECORD": tmp_path / "record", "OUT": tmp_path / "out"}
    for name, real in names.items():
        attempt = attempt.replace(name, str(real))
    with open_calls(tmp_path / "record") as calls:
        with pytest.raises(RecordError):
            list(calls.sql(attempt).rows)
        assert list(calls.sql("SELECT call_id FROM calls").rows) == [("id000001",)]
    assert path.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["record", "secret.txt"]


def test_what_is_parameterised_is_a_value(tmp_path) -> None:
    """Text that looks like SQL is text."""
    hostile = "x'; DROP VIEW calls; --"
    path = write(tmp_path / "a.jsonl", event(1, mlguard__policy=hostile))
    with open_calls(path) as calls:
        assert list(calls.sql("SELECT count(*) FROM calls WHERE policy = ?", [hostile]).rows) == [(1,)]


def test_nothing_is_left_behind(tmp_path, monkeypatch) -> None:
    """What a query needs on the disk goes when the record is closed."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    path = write(tmp_path / "a.jsonl", event(1))
    with open_calls(path) as calls:
        assert list(calls.sql("SELECT 1").rows) == [(1,)]
        assert list(Path(scratch).iterdir())
    assert not list(Path(scratch).iterdir())
    with pytest.raises(RecordError):
        open_calls(tmp_path / "nope")
    unclosed = open_calls(path)
    del unclosed
    gc.collect()
    assert not list(Path(scratch).iterdir())
