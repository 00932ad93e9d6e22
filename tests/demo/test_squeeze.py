"""The memory squeeze: real bytes, taken and given back, never more than the machine can spare."""

from __future__ import annotations

import pytest

pytest.importorskip("sklearn", reason="the demo needs the extra 'demo'")

from mlguard.demo.squeeze import Squeeze
from mlguard.memory import read


def test_ballast_crosses_the_ceiling_and_is_given_back():
    """Between entering and leaving the limit nearest at the ceiling is exceeded; before and after it is not."""
    squeeze = Squeeze()
    if not squeeze.possible:
        pytest.skip("less than 256 MiB of memory are free")
    before = read()
    with squeeze:
        assert squeeze.ballast > 0
        assert read().used - before.used > squeeze.ballast / 2
    assert read().used - before.used < squeeze.ballast / 2


def test_a_small_machine_is_not_squeezed(monkeypatch):
    """Where hardly any memory is free no ballast is taken, and the ceiling refuses nothing."""
    monkeypatch.setattr("mlguard.demo.squeeze._ENOUGH_FREE", 1 << 60)
    with Squeeze() as squeeze:
        assert not squeeze.possible
        assert squeeze.ballast == 0
        assert squeeze.ceiling == 1.0
