"""From the text of call.py to code: what is cut, what stays, and that every combination compiles."""

from __future__ import annotations

import ast
import dis
import inspect
import itertools

import mlguard.call
from mlguard.specialise import readable, specialise
from mlguard.target import Kind
from mlguard.vocabulary import FLAGS


def test_every_pair_of_flags_compiles_for_every_kind() -> None:
    """Any two concerns, alone or together, make a wrapper of the right kind."""
    for kind in Kind:
        for pair in itertools.combinations(FLAGS, 2):
            if kind.stream and "CACHE" in pair:
                continue
            code = specialise(kind, dict.fromkeys(pair, True))["call"]
            assert bool(code.co_flags & inspect.CO_COROUTINE) is (kind is Kind.COROUTINE)
            assert bool(code.co_flags & inspect.CO_GENERATOR) is (kind is Kind.GENERATOR)
            assert bool(code.co_flags & inspect.CO_ASYNC_GENERATOR) is (kind is Kind.ASYNC_GENERATOR)


def test_what_is_off_costs_nothing() -> None:
    """A concern that is off leaves no instruction behind."""
    names = {
        instruction.argval for instruction in dis.get_instructions(specialise(Kind.PLAIN, {"RETRY": True})["call"])
    }
    assert "again" in names
    assert not names & {
        "context",
        "bind",
        "key_of",
        "breaker_enter",
        "slot_enter",
        "memory_enter",
        "covered",
        "succeeded",
    }


def test_line_numbers_are_those_of_call_py() -> None:
    """A debugger that stops in the wrapper shows the real line of call.py."""
    lines = inspect.getsource(mlguard.call).splitlines()
    code = specialise(Kind.PLAIN, {"VALIDATE": True})["call"]
    shown = {line for _, _, line in code.co_lines() if line}
    assert any("bind(values)" in lines[line - 1] for line in shown)
    assert code.co_filename == mlguard.call.__file__


def test_readable_text_is_python_without_flags() -> None:
    """What `f.guard.source` prints is valid Python in which no flag is left."""
    for kind in Kind:
        for on in ({}, {"RETRY": True}, dict.fromkeys(set(FLAGS) - {"CACHE"}, True)):
            text = readable(kind, on, "predict")
            tree = ast.parse(text)
            assert tree.body[0].name == "predict"  # type: ignore[attr-defined]
            assert not {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} & set(FLAGS)
    assert "await" not in readable(Kind.PLAIN, dict.fromkeys(FLAGS, True), "predict").replace("awaits", "")


def test_rename() -> None:
    """A name can be looked up under another one, so that new code never meets old state."""
    code = specialise(Kind.PLAIN, {}, rename={"function": "first_call"})["call"]
    assert "first_call" in code.co_names
    assert "function" not in code.co_names


def test_call_py_is_short_enough_to_read() -> None:
    """The whole path of a call fits on a few screens."""
    assert len(inspect.getsource(mlguard.call).splitlines()) < 215
