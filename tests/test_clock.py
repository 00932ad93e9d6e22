import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlguard import clock


@pytest.mark.parametrize(
    ("text", "value"),
    [("500ms", 0.5), ("30s", 30), ("5m", 300), ("2h", 7200), ("1d", 86400), (" 1.5 s ", 1.5), ("7", 7), (3, 3)],
)
def test_durations_are_seconds_or_words(text, value):
    """Every documented unit is understood."""
    assert clock.seconds(text) == value
    assert isinstance(clock.seconds(text), float)


@pytest.mark.parametrize(
    ("text", "value"),
    [("64KiB", 65536), ("256MiB", 2**28), ("2GB", 2 * 10**9), ("1.5TiB", 3 * 2**39), ("7B", 7), (7, 7), (7.0, 7)],
)
def test_sizes_are_bytes_or_words(text, value):
    """Decimal and binary units are understood, and the result is whole bytes."""
    assert clock.bytes_of(text) == value
    assert isinstance(clock.bytes_of(text), int)


@pytest.mark.parametrize(
    ("text", "fix"),
    [("30sec", "30s"), ("5 min", "5m"), ("2 Hours", "2h"), ("10msecs", "10ms"), ("5M", "5m"), ("1day", "1d")],
)
def test_a_misspelt_duration_is_answered_with_the_right_one(text, fix):
    """The message says what to write instead."""
    with pytest.raises(ValueError, match=f'For "{text}" write "{fix}"'):
        clock.seconds(text)


@pytest.mark.parametrize(("text", "fix"), [("64kb", "64KB"), ("5M", "5MiB"), ("2 gib", "2GiB"), ("9 bytes", "9B")])
def test_a_misspelt_size_is_answered_with_the_right_one(text, fix):
    """The message says what to write instead."""
    with pytest.raises(ValueError, match=f'For "{text}" write "{fix}"'):
        clock.bytes_of(text)


@pytest.mark.parametrize(
    "value", ["", "s", "-1s", "1x", "1s2", "\uff11s", "9" * 400, -1, math.nan, math.inf, True, None, [1]]
)
def test_what_is_no_duration_is_refused(value):
    """Negative, infinite and nonsensical values are a ValueError."""
    with pytest.raises(ValueError, match="must be a duration"):
        clock.seconds(value)


@pytest.mark.parametrize("value", ["", "1x", 1.5, -1, math.nan, math.inf, True, None, "9" * 400 + "TiB"])
def test_what_is_no_size_is_refused(value):
    """Negative, infinite, broken and nonsensical values are a ValueError."""
    with pytest.raises(ValueError, match="must be a size"):
        clock.bytes_of(value)


@given(st.floats(0.001, 1e9))
def test_words_for_a_duration_read_back_as_nearly_the_same(value):
    """What messages show can be written into a policy."""
    assert clock.seconds(clock.duration_text(value)) == pytest.approx(value, rel=0.01)


@given(st.integers(0, 2**60))
def test_words_for_a_size_read_back_as_nearly_the_same(value):
    """What messages show can be written into a policy."""
    assert clock.bytes_of(clock.size_text(value)) == pytest.approx(value, rel=0.01)
