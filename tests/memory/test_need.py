"""What a call needs: declared as bytes, as a factor of the input, or by a function of the arguments."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections import namedtuple
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict

from mlguard import guarded
from mlguard.errors import MemoryPressureError, PolicyError
from mlguard.memory import Memory, MemoryGuard
from mlguard.memory.need import bytes_in, estimator
from mlguard.target import Target

MIB = 1 << 20

ARRAY = np.zeros(1000)


def predict(batch, scale=1.0):
    return batch


class Input(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    features: np.ndarray
    name: str = "x"


@dataclasses.dataclass(slots=True)
class Point:
    features: Any


class Polars:
    def estimated_size(self):
        return 123


class Pandas:
    def memory_usage(self):
        return np.array([100, 23])


class Sparse:
    nnz = 3

    def __init__(self):
        self.data = ARRAY


class Tensor:
    nbytes = np.int64(77)


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (ARRAY, 8000),
        (np.float32(1), sys.getsizeof(np.float32(1))),
        (memoryview(b"abcd"), 4),
        (Tensor(), 77),
        (Polars(), 123),
        (Pandas(), 123),
        (Sparse(), 8000),
        (Point(ARRAY), 8000),
        (Input(features=ARRAY), 8000 + sys.getsizeof("x")),
        ([ARRAY, ARRAY], 16000 + sys.getsizeof([1, 2])),
        ((ARRAY,), 8000 + sys.getsizeof((1,))),
        ({"a": ARRAY}, 8000 + sys.getsizeof({"a": 1})),
        (b"abc", sys.getsizeof(b"abc")),
        (None, sys.getsizeof(None)),
        (Tensor, sys.getsizeof(Tensor)),
    ],
)
def test_bytes_of_one_argument(value, size):
    """Arrays, tensors, frames, models and containers count the bytes of their data."""
    if isinstance(value, np.generic):
        size = value.nbytes
    assert bytes_in(value) == size


def test_long_lists_are_estimated_from_their_start():
    """A list of a million items costs no more to look at than one of a thousand."""
    row = [1.0] * 1_000_000
    assert bytes_in(row) == pytest.approx(sys.getsizeof(row) + 24e6)


def test_containers_without_end_are_looked_into_only_so_deep():
    """A list that holds itself is no endless loop."""
    inside: list[Any] = []
    inside.append(inside)
    assert bytes_in(inside) < 1000


def test_factor_counts_the_input_and_not_the_model():
    """ "3x" is three times the arguments' bytes, without `self`, whose weights are there already."""

    class Model:
        def predict(self, batch):
            return batch

    class Weights:
        nbytes = 10**12

    of_function = estimator("3x", Target(predict))
    of_method = estimator("1.5 x", Target(Model.predict))
    assert of_function((ARRAY,), {}) == 24000
    assert of_function((), {"batch": ARRAY}) == 24000
    assert of_method((Weights(), ARRAY), {}) == 12000


def test_function_sees_the_arguments_as_the_guarded_function_does():
    """A function of the arguments gets defaults filled in and keywords in their places."""
    seen = []

    def need(batch, scale):
        seen.append((batch, scale))
        return 5

    estimate = estimator(need, Target(predict))
    assert [estimate((1, 2), {}), estimate((1,), {}), estimate((), {"scale": 3, "batch": 1})] == [5, 5, 5]
    assert seen == [(1, 2), (1, 1.0), (1, 3)]


def test_function_of_keyword_only_and_variable_arguments():
    """Keyword-only and variable parameters reach the function by the same names."""

    def guarded(a, *rest, flag=False, **more):
        return a

    estimate = estimator(lambda a, *rest, flag, **more: (a + sum(rest)) * (2 if flag else 1), Target(guarded))
    assert estimate((1, 2, 3), {"flag": True, "other": 1}) == 12
    assert estimate((1,), {}) == 1


def test_function_without_a_signature_is_left_to_its_first_call():
    """Functions written in C that don't tell their signature are accepted."""
    assert estimator(max, Target(predict))((3, 4), {}) == 4


@pytest.mark.parametrize(
    ("need", "words"),
    [
        (lambda batch: 1, r"is called with the arguments of predict\(batch, scale=1.0\), which it does not take"),
        (functools.partial(lambda: 1), "give it the same parameters"),
        ("3 times", 'a factor of the input\'s bytes such as "3x", or "learned", or a function'),
        ("0x", "must be bytes"),
        (-1, "must be bytes"),
        (3.5j, "must be bytes"),
    ],
)
def test_a_need_that_means_nothing_is_refused_at_decoration(need, words):
    """What can't be understood, or can't take the arguments, is refused before the first call."""
    with pytest.raises(PolicyError, match=words):
        MemoryGuard(Target(predict), Memory(), need=need)


def test_an_async_function_is_refused():
    """An estimate is asked for before the call, where nothing can be awaited."""

    async def need(batch, scale):
        return 1

    with pytest.raises(PolicyError, match="must be a plain function, not async"):
        MemoryGuard(Target(predict), Memory(), need=need)


@pytest.mark.parametrize(
    ("written", "kept"),
    [(None, None), (5, 5), ("256MiB", 256 * MIB), ("3x", "3x"), (" 2.50 x ", "2.5x"), (0, 0), ("learned", "learned")],
)
def test_a_policy_keeps_need_as_bytes_or_factor(written, kept):
    """Whatever way it is written, a need is kept as bytes or as a factor, and written back the same."""
    section = Memory(need=written)
    assert section.need == kept
    assert Memory(**section.model_dump()) == section


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"need": "lots"}, r"Memory.need = 'lots': must be bytes, a size such as"),
        ({"threshold": 0}, r"Memory.threshold = 0: must be greater than 0"),
        ({"threshold": 1.1}, r"Memory.threshold = 1.1"),
        ({"on_pressure": "wait"}, r"Memory.on_pressure = 'wait'"),
        ({"max_wait": "soon"}, r"Memory.max_wait = 'soon'"),
        ({"treshold": 0.5}, r"Did you mean 'threshold'"),
    ],
)
def test_impossible_settings_are_refused(settings, words):
    """A setting that can't be meant is refused with the field, the value and the fix."""
    with pytest.raises(PolicyError, match=words):
        Memory(**settings)


def test_schema_of_the_section_has_a_description_for_every_field():
    """The policy file's JSON Schema explains every field, and can be generated."""
    fields = Memory.model_json_schema()["properties"]
    assert set(fields) == set(Memory.model_fields)
    assert all(field["description"] for field in fields.values())


def test_named_tuples_are_looked_into():
    """Named tuples are tuples."""
    pair = namedtuple("Pair", "a b")(ARRAY, ARRAY)
    assert bytes_in(pair) >= 16000


@pytest.mark.parametrize("need", [10**400, 1e300, "9" * 400 + "x", f"{1 << 63}x", "99999999999TiB"])
def test_more_than_any_machine_has_is_refused_at_decoration(need):
    """A need of absurd size is a mistake, and told as one."""
    with pytest.raises(PolicyError, match="need"):
        estimator(need, Target(lambda x: x))


@pytest.mark.parametrize("factor", ["1000000x", "1234567x", "0.0000001x", "2.50x", "1234567.125x"])
def test_a_factor_is_kept_exactly_and_can_be_read_again(factor):
    """A policy that is written down and read again says the same, however long the factor is."""
    kept = Memory(need=factor)
    assert Memory.model_validate_json(kept.model_dump_json()) == kept
    assert float(str(kept.need).removesuffix("x")) == float(factor.removesuffix("x"))


def test_an_estimate_of_absurd_size_is_a_refusal_and_no_crash():
    """An estimator that returns a huge number has its call refused with a message that can be read."""

    @guarded(memory=Memory(max_wait=0), need=lambda x: 10**400)
    def predict(x):
        raise AssertionError

    with pytest.raises(MemoryPressureError, match="this call needs 4194304TiB") as caught:
        predict(1)
    assert caught.value.permanent


def test_an_object_whose_call_is_async_is_refused():
    """A need that would have to be awaited is refused at decoration, in whatever form it comes."""

    class Asks:
        async def __call__(self, x):
            return 1

    with pytest.raises(PolicyError, match="must be a plain function, not async"):
        estimator(Asks(), Target(lambda x: x))


def test_fields_that_are_not_there_and_fields_nobody_declared():
    """A dataclass with a field that was never set, and what a model took beyond its fields, are counted."""

    @dataclasses.dataclass
    class Half:
        data: np.ndarray
        never: int = dataclasses.field(init=False)

    class Open(BaseModel, extra="allow"):
        pass

    assert bytes_in(Half(np.zeros(1000))) >= 8000
    assert bytes_in(Open(data=np.zeros(1000))) >= 8000
