from typing import Annotated, Literal

import pytest
from pydantic import Field

from mlguard.errors import PolicyError
from mlguard.section import Section, shown


class Inner(Section):
    count: int = Field(default=1, ge=0)
    mode: Literal["a", "b"] = "a"
    either: Annotated[int, Field(gt=0)] | list[int] | None = None


class Outer(Section):
    inner: Inner = Inner()
    needed: str


def message(**values):
    with pytest.raises(PolicyError) as caught:
        Outer(**values)
    return str(caught.value)


def test_one_error_lists_every_problem_by_field():
    """Nested sections included, each with field, value and what it must be."""
    text = message(inner={"count": -1, "mode": "c"})
    assert "Outer.inner.count = -1: must be greater than or equal to 0" in text
    assert "Outer.inner.mode = 'c': must be 'a' or 'b'" in text
    assert "Outer.needed: is required" in text


def test_an_unknown_setting_is_answered_with_the_nearest_of_its_section():
    """The names of the nested section are offered, not those of the outer."""
    text = message(needed="x", inner={"cuont": 1})
    assert (
        "Outer.inner.cuont: there is no setting 'cuont'. Did you mean 'count'? Known here: count, either, mode" in text
    )


def test_a_value_that_fits_none_of_several_types_is_one_problem():
    """The types pydantic tried don't show as fields."""
    text = message(needed="x", inner={"either": "no"})
    assert text.count("Outer.inner.either = 'no'") == 1
    assert ", or must be a valid list" in text


def test_a_value_is_shown_bounded_even_if_it_cannot_be_shown():
    """Long values are cut, and a broken repr does not hide the problem."""

    class Broken:
        def __repr__(self):
            raise RuntimeError

    assert len(shown("x" * 1000)) == 80
    assert shown(Broken()) == "a Broken"
