import subprocess
import sys

import numpy as np
import pytest

from mlguard.cache import Cache
from mlguard.errors import PolicyError
from mlguard.policies import Policy
from mlguard.resilience.breaker import Breaker
from mlguard.resilience.deadline import Timeout
from mlguard.resilience.fallback import Fallback
from mlguard.resilience.retry import Retry
from mlguard.validation import Validation


def test_an_empty_policy_enforces_the_schema_and_nothing_else():
    """`Policy()` has one section: validation."""
    assert list(Policy().sections) == ["validation"]


def test_a_section_may_be_an_instance_a_mapping_or_a_switch():
    """True means the defaults, False means without, a mapping is the settings."""
    policy = Policy(retry=True, breaker=False, timeout={"total": "1s"}, validation=False)
    assert policy.retry == Retry()
    assert policy.breaker is None
    assert policy.timeout == Timeout(total=1)
    assert policy.validation is None


@pytest.mark.parametrize(("section", "setting"), [("cache", "ttl"), ("concurrency", "max_concurrent")])
def test_true_needs_defaults_for_everything(section, setting):
    """A section that can't do without a setting refuses True and names the setting."""
    with pytest.raises(PolicyError, match=f"{section} = True: .* no default for {setting}"):
        Policy(**{section: True})


def test_all_problems_come_at_once_with_field_value_and_hint():
    """One error lists unknown settings with the nearest name, and impossible values with what is possible."""
    with pytest.raises(PolicyError) as caught:
        Policy(retry={"max_retires": 3}, memory={"threshold": 7}, timeout={"total": "30sec"})
    message = str(caught.value)
    assert "Policy.retry.max_retires: there is no setting 'max_retires'. Did you mean 'max_retries'?" in message
    assert "Policy.memory.threshold = 7: must be less than or equal to 1" in message
    assert """Policy.timeout.total = '30sec': must be a duration""" in message
    assert """For "30sec" write "30s\"""" in message


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"timeout": {"total": 1, "attempt": 2}}, r"timeout.attempt = 2s: is longer than timeout.total = 1s"),
        ({"retry": {"initial_delay": 5, "max_delay": 1}}, "initial_delay"),
        ({"retry": {"on_invalid_output": True}, "validation": False}, "no output is ever invalid"),
        ({"retry": {"on_invalid_output": True}, "validation": {"output": False}}, "no output is ever invalid"),
        ({"name": "Real-Time"}, "small letters"),
        ({"retyr": True}, "Did you mean 'retry'"),
    ],
)
def test_contradictions_are_refused(sections, words):
    """What can't be honoured is refused when the policy is made, with the reason."""
    with pytest.raises(PolicyError, match=words):
        Policy(**sections)


def test_overrides_merge_the_fields_that_were_set():
    """Only explicitly set fields of an override win, also where they equal the default."""
    policy = Policy(name="p", retry=Retry(max_retries=7, max_delay=5), breaker=Breaker())
    merged = policy.merged({"retry": Retry(max_retries=3), "breaker": False, "cache": Cache(ttl=9), "monitor": True})
    assert (merged.retry.max_retries, merged.retry.max_delay) == (3, 5)
    assert merged.breaker is None
    assert merged.cache.ttl == 9
    assert merged.monitor is not None
    assert merged.name == "p"
    assert policy.breaker is not None


def test_overrides_may_be_mappings_or_leave_alone():
    """A mapping merges like a section; None and True change nothing that is there."""
    policy = Policy(retry=Retry(max_retries=7))
    assert policy.merged({"retry": None}) == policy
    assert policy.merged({"retry": True}) == policy
    assert policy.merged({"retry": {"budget": None}}).retry == Retry(max_retries=7, budget=None)


def test_a_merge_that_contradicts_itself_is_refused():
    """A merge is checked like any policy."""
    with pytest.raises(PolicyError, match="longer than"):
        Policy(timeout=Timeout(total=1)).merged({"timeout": Timeout(attempt=2)})


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"retyr": False}, "no section 'retyr'. Did you mean 'retry'"),
        ({"retry": Breaker()}, r"must be Retry\(...\)"),
        ({"cache": True}, "no default for ttl"),
        ({"name": "x"}, "no section 'name'"),
    ],
)
def test_impossible_overrides_are_refused(overrides, words):
    """Unknown sections and sections of another class are named."""
    with pytest.raises(PolicyError, match=words):
        Policy().merged(overrides)


def test_the_values_in_force_include_defaults():
    """Every setting of every section in force has its dotted name."""
    values = Policy(retry=Retry(max_retries=1)).values
    assert values["retry.max_retries"] == 1
    assert values["retry.jitter"] is True
    assert not any(name.startswith("cache.") for name in values)


def test_the_fingerprint_says_what_is_in_force():
    """It is the same for the same settings however they were written, and differs for any other."""
    policy = Policy(retry=Retry(max_delay="10s"), timeout=Timeout(total=30))
    assert policy.fingerprint == Policy(name="x", description="y", retry=True, timeout={"total": "30s"}).fingerprint
    assert policy.fingerprint != Policy(retry=Retry(max_delay="11s"), timeout=Timeout(total=30)).fingerprint
    assert len(policy.fingerprint) == 12
    assert int(policy.fingerprint, 16)


class Plain:
    """An object whose repr has an address."""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.zeros(3), np.ones(3)),
        (np.array([1, "a"], dtype=object), np.array([1, "b"], dtype=object)),
        (b"a", b"b"),
        ({1, 2}, {1, 3}),
        (Plain, Plain()),
        ([1, (2, {"a": 1})], [1, (2, {"a": 2})]),
        (Validation(), Validation(strict=True)),
        (np.float32(1), np.float32(2)),
    ],
)
def test_any_value_has_a_place_in_the_fingerprint(one, other):
    """Values that are no plain data count by content, or by the name of their class."""
    first = Policy(fallback=Fallback(value=one)).fingerprint
    assert first == Policy(fallback=Fallback(value=one)).fingerprint
    assert first != Policy(fallback=Fallback(value=other)).fingerprint


def test_the_fingerprint_is_the_same_in_every_process():
    """Hash seeds and addresses don't show in it."""
    code = (
        "from mlguard.policies import Policy; from mlguard.resilience.retry import Retry;"
        "from mlguard.resilience.fallback import Fallback;"
        "print(Policy(retry=Retry(on=[OSError, KeyError]), fallback=Fallback(value={'a', 'b', 'c'})).fingerprint)"
    )
    prints = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, check=True, capture_output=True, text=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(prints) == 1
