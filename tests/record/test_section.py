"""`Record`: what is refused, and what a bare path stands for."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlguard.errors import PolicyError
from mlguard.record import Record
from mlguard.record.section import RecordSetting
from mlguard.section import Section


class Holder(Section):
    """Something with a record, as `Monitor` has."""

    record: RecordSetting = None


def test_a_path_stands_for_a_section() -> None:
    """A text or a path is a Record of nothing but it."""
    assert Holder(record="calls").record == Record(path="calls")
    assert Holder(record=Path("a") / "b").record == Record(path=str(Path("a") / "b"))
    assert Holder().record is None


def test_defaults() -> None:
    """A gibibyte in files of 64 MiB; where a folder is small, its files are a quarter of it."""
    assert Record(path="x").max_bytes == 2**30
    assert Record(path="x").segment_size == 64 * 2**20
    assert Record(path="x", max_bytes="4MiB").segment_size == 2**20


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"path": ""}, "path"),
        ({}, "Record.path: is required. Fix: Record(path=...)"),
        ({"path": "x", "max_bytes": "100KiB"}, "must be at least 1MiB"),
        ({"path": "x", "max_bytes": "8MiB", "segment_bytes": "4MiB"}, "a quarter of max_bytes, 2MiB"),
        ({"path": "x", "segment_bytes": 10}, "must be from 256KiB"),
        ({"path": "x", "max_waiting": 0}, "max_waiting"),
        ({"path": "x", "max_size": 1}, "no setting 'max_size'"),
    ],
)
def test_impossible_settings(settings, said: str) -> None:
    """What can't be kept is refused where it is written, with field, value and fix."""
    with pytest.raises(PolicyError) as caught:
        Record(**settings)
    assert said in str(caught.value)
