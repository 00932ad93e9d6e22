"""The policies that come with mlguard, ``mlguard:realtime`` and its like; `presets.toml` says them and why."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from importlib.resources import files
from tomllib import loads

from mlguard.policies.entries import Entry, read_entry
from mlguard.policies.lines import key_lines
from mlguard.policies.policy import PRESET

__all__ = ["presets"]


@cache
def presets() -> dict[str, Entry]:
    """The presets by full name."""
    text = files("mlguard.policies").joinpath("presets.toml").read_text(encoding="utf-8")
    lines = key_lines(text)
    problems: list[str] = []
    found = {}
    for name, table in loads(text)["policies"].items():

        def origin_of(path: tuple[str, ...], name: str = name) -> str:
            return f"mlguard's presets.toml:{lines[('policies', name, *path)]}"

        found[PRESET + name] = replace(read_entry(name, table, origin_of, problems), name=PRESET + name)
    if problems:  # a broken release; the tests read every preset
        raise AssertionError(problems)
    return found
