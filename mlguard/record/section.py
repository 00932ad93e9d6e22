"""`Record`: where calls are recorded, and how much of the disk that may take."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any, Final, Self

from pydantic import BeforeValidator, Field, model_validator

from mlguard import clock
from mlguard.clock import Duration, Size
from mlguard.section import Section

__all__ = ["FEWEST", "LEAST_SEGMENT", "Record", "RecordSetting", "or_a_folder"]

LEAST_SEGMENT: Final = 256 * 1024
"""Bytes below which a segment would hold few of the longest lines."""

FEWEST: Final = 4
"""Segments a folder must have room for: the oldest goes whole."""


class Record(Section):
    """Keeps the event of every call in a folder, for `mlguard query` and `mlguard report`."""

    path: str = Field(min_length=1)
    """The folder; made where it is absent. A relative one starts from the folder in which the process works when it
    writes its first call. Several processes, and several services, may share it."""
    max_bytes: Size = Field(default="1GiB", validate_default=True)
    """The most that the folder may hold, all processes together; the oldest calls go first. 1 GiB is more than ten
    million calls: a line of 830 bytes packs to about 86."""
    segment_bytes: Size = Field(default="64MiB", validate_default=True)
    """How large one file of one process grows before the next begins. Files are removed whole, so this is also the
    step in which the past goes. Full files are packed; the last one of each process is not, and a query reads it in a
    tenth of a second. At most a quarter of `max_bytes`, where the default is more. Where many processes write, their
    files together are: 64 of them in a folder of 1 GiB fill files of 4 MiB."""
    max_age: Duration | None = None
    """From which age on calls go, whatever room is left, judged by a file's last write. None: only for `max_bytes`."""
    max_waiting: int = Field(default=10_000, ge=1, le=1_000_000)
    """Calls that wait to be written at most. When the disk is slower than the traffic, calls beyond that are dropped
    and counted: a prediction never waits. 10,000 are about 20 MB."""
    fsync: bool = False
    """Whether what was written is forced to the disk before more is. Without it a killed process loses nothing that was
    written, and a machine that loses its power the last half minute or so."""

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        room, segment = clock.bytes_of(self.max_bytes), clock.bytes_of(self.segment_bytes)
        if room < FEWEST * LEAST_SEGMENT:
            raise ValueError(f"max_bytes = {room}: must be at least {clock.size_text(FEWEST * LEAST_SEGMENT)}")
        if "segment_bytes" not in self.model_fields_set:
            return self
        if not LEAST_SEGMENT <= segment <= room // FEWEST:
            raise ValueError(
                f"segment_bytes = {segment}: must be from {clock.size_text(LEAST_SEGMENT)} to a quarter of max_bytes, "
                f"{clock.size_text(room // FEWEST)}"
            )
        return self

    @property
    def segment_size(self) -> int:
        """Bytes of one file: `segment_bytes`, or a quarter of `max_bytes` where the default would be more."""
        return min(clock.bytes_of(self.segment_bytes), clock.bytes_of(self.max_bytes) // FEWEST)


def _section(value: Any) -> Any:
    """A path stands for a section of nothing but it."""
    return {"path": os.fspath(value)} if isinstance(value, str | os.PathLike) else value


def or_a_folder(schema: dict[str, Any]) -> None:
    """Says the same in a JSON Schema."""
    schema["anyOf"] = [*schema.get("anyOf", ()), {"type": "string"}]


if TYPE_CHECKING:
    RecordSetting = Record | str | os.PathLike[str] | None
else:
    RecordSetting = Annotated[Record | None, BeforeValidator(_section)]
