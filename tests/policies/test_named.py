import os
import sys
import threading
import types

import pytest

from mlguard import policies
from mlguard.errors import PolicyError
from mlguard.policies import Policy
from mlguard.resilience.breaker import Breaker
from mlguard.resilience.fallback import Fallback
from mlguard.resilience.retry import Retry

FILE = """\
[policies.remote]
abstract = true
retry = { max_retries = 3, on = "transient", budget = 0.2 }
breaker = { minimum_calls = 7 }

[policies.realtime]
description = "Answers users."
extends = ["remote"]
timeout = { total = "800ms" }
cache = { ttl = "30s", max_bytes = "256MiB" }
breaker = false                     # removes what was inherited
"""


def test_a_policy_of_the_file_has_what_it_says_and_what_it_inherits(write):
    """Sections merge setting by setting over the parents', and false removes one."""
    write(FILE)
    policy = policies.get("realtime")
    assert policy.name == "realtime"
    assert policy.description == "Answers users."
    assert policy.retry == Retry(max_retries=3, on="transient", budget=0.2)
    assert policy.timeout.total == 0.8
    assert policy.cache.ttl == 30
    assert policy.breaker is None
    assert policies.names() == ["realtime"]


def test_explain_says_where_every_value_comes_from(write, monkeypatch):
    """File and line, variable, removal or default, with the words one would write."""
    path = write(FILE)
    monkeypatch.setenv("MLGUARD__REALTIME__RETRY__MAX_RETRIES", "5")
    rows = {
        line.split("  ")[1]: line.rsplit("  ", 1)[1].strip() for line in policies.explain("realtime").splitlines()[2:]
    }
    assert rows["retry.max_retries = 5"] == "variable MLGUARD__REALTIME__RETRY__MAX_RETRIES"
    assert rows["retry.budget = 0.2"] == f"{path}:3"
    assert rows["timeout.total = 800ms"] == f"{path}:9"
    assert rows["cache.max_bytes = 256MiB"] == f"{path}:10"
    assert rows["cache.max_entries = 10000"] == "default"
    assert rows["breaker = false"] == f"removed at {path}:11"
    assert policies.get("realtime").fingerprint in policies.explain("realtime")
    assert policies.origins("realtime")["retry.budget"] == f"{path}:3"


def test_explain_shows_an_abstract_policy_as_far_as_it_goes(write):
    """What an abstract policy leaves open is not filled with defaults."""
    write('[policies.base]\nabstract = true\ncache = { max_entries = 5 }\nretry = { on = ["KeyError"] }')
    text = policies.explain("base")
    assert "base: abstract" in text
    assert "cache.max_entries = 5" in text
    assert "ttl" not in text


def test_an_abstract_policy_cannot_be_used(write):
    """It is refused with the names that can be."""
    write(FILE)
    with pytest.raises(PolicyError, match=r"'remote' is abstract .* there are: realtime"):
        policies.get("remote")


def test_several_parents_count_in_order_and_a_shared_one_once(write):
    """Later parents win over earlier ones, and what both extend lies below both."""
    write(
        """
        [policies.root]
        retry = { max_retries = 9, max_delay = 9 }
        [policies.left]
        extends = "root"
        retry = { max_retries = 1 }
        [policies.right]
        extends = "root"
        timeout = { total = 2 }
        [policies.leaf]
        extends = ["left", "right"]
        """
    )
    leaf = policies.get("leaf")
    assert (leaf.retry.max_retries, leaf.retry.max_delay, leaf.timeout.total) == (1, 9, 2)


def test_what_was_removed_starts_afresh(write):
    """A section that a parent removed is not what the grandparent had when a child asks for it again."""
    write(
        """
        [policies.a]
        retry = { max_retries = 9 }
        [policies.b]
        extends = ["a"]
        retry = false
        [policies.c]
        extends = ["b"]
        retry = true
        [policies.d]
        extends = ["a"]
        retry = true
        """
    )
    assert policies.get("b").retry is None
    assert policies.get("c").retry == Retry()
    assert policies.get("d").retry.max_retries == 9


def test_false_stands_for_none_where_a_setting_accepts_it(write):
    """TOML has no null: no expiry and no budget are written as false."""
    write("[policies.p]\ncache = { ttl = false }\nretry = { budget = false, jitter = false }")
    policy = policies.get("p")
    assert policy.cache.ttl is None
    assert policy.retry.budget is None
    assert policy.retry.jitter is False


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[policies.a]\nextends = ["a"]', r"mlguard.toml:1: .* circle: a -> a"),
        (
            '[policies.a]\nextends = "b"\n[policies.b]\nextends = "a"',
            r"^\S*mlguard.toml:1: .* circle: a -> b -> a\. Fix: drop one `extends`\.$",
        ),
        (
            '[policies.c]\nextends = "b"\n[policies.b]\nextends = "a"\n[policies.a]\nextends = "b"',
            r"^\S*mlguard.toml:5: .* circle: a -> b -> a\. Fix: drop one `extends`\.$",
        ),
    ],
)
def test_circles_are_shown(write, text, words):
    """A policy that extends itself is refused with the way round, once, whoever leads to it."""
    write(text)
    with pytest.raises(PolicyError, match=words):
        policies.get("a")


def test_an_unknown_parent_is_shown_with_the_chain(write):
    """The chain, the nearest name and what is known are in the message."""
    write('[policies.top]\nextends = "mid"\n[policies.mid]\nextends = ["remot"]\n[policies.remote]')
    with pytest.raises(PolicyError, match=r"\(top -> mid -> remot\)\. Did you mean 'remote'\?"):
        policies.get("top")
    assert policies.get("remote").name == "remote"
    with pytest.raises(PolicyError, match="remot"):
        policies.check()


def test_an_unknown_name_lists_every_place(service, monkeypatch):
    """The message has the nearest name, what is known, and every folder that was searched."""
    policies.define("realtime", Policy())
    monkeypatch.setenv("MLGUARD__REALTIM__RETRY", "true")
    with pytest.raises(PolicyError) as caught:
        policies.get("realtim")
    message = str(caught.value)
    assert "Did you mean 'realtime'?" in message
    assert "variables alone make no policy" in message
    assert all(str(folder) in message for folder in (service, *service.parents))


def test_code_defines_policies():
    """By name, or by a policy that carries one."""
    policies.define("one", Policy(retry=True))
    policies.define(Policy(name="two", cache={"ttl": 1}))
    assert policies.names() == ["one", "two"]
    assert policies.get("one").name == "one"
    assert policies.get("two") == Policy(name="two", cache={"ttl": 1})
    assert f"{__file__}:" in policies.explain("one")


def test_a_file_changes_what_code_defined(write, monkeypatch):
    """Environment wins over file, file over code, value by value; and a file may extend what code defined."""
    write("[policies.p]\nretry = { max_retries = 2, max_delay = 20 }\n[policies.q]\nextends = 'p'")
    monkeypatch.setenv("MLGUARD__P__RETRY__MAX_DELAY", "40s")
    policies.define(
        "p", Policy(description="d", retry=Retry(max_retries=1, initial_delay=1, max_delay=10), breaker=Breaker())
    )
    policy = policies.get("p")
    assert (policy.retry.initial_delay, policy.retry.max_retries, policy.retry.max_delay) == (1, 2, 40)
    assert policy.breaker == Breaker()
    assert policy.description == "d"
    assert policies.get("q").retry == policy.retry


def test_the_policy_of_code_keeps_its_objects():
    """Values that only code can give come back as they are."""
    value = object()
    policies.define("p", Policy(fallback=Fallback(value=value), validation=None))
    assert policies.get("p").fallback.value is value
    assert policies.get("p").validation is None


def test_one_name_for_two_policies_is_refused():
    """The same definition again is fine, another one needs replace=True, and both places are named."""
    policies.define("p", Policy(retry=True))
    policies.define("p", Policy(retry=True))
    with pytest.raises(
        PolicyError, match=r"defined twice, and differently: at .*test_named.py:\d+ and at .*test_named.py:\d+"
    ):
        policies.define("p", Policy())
    policies.define("p", Policy(), replace=True)
    assert policies.get("p").retry is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("P", Policy()), "can't be the name"),
        (("mlguard:p", Policy()), "can't be the name"),
        (("p", {}), "not dict"),
        (("p",), "not NoneType"),
        ((Policy(),), "needs a name"),
    ],
)
def test_definitions_without_sense_are_refused(arguments, words):
    """Names and policies have to be what they are called."""
    with pytest.raises(PolicyError, match=words):
        policies.define(*arguments)


def test_a_changed_file_is_read_again_only_on_demand(write):
    """What a process uses stays the same until reload() or reset()."""
    path = write("[policies.p]\nretry = { max_retries = 1 }")
    assert policies.get("p").retry.max_retries == 1
    write("[policies.p]\nretry = { max_retries = 2 }")
    assert policies.get("p").retry.max_retries == 1
    policies.reload()
    assert policies.get("p").retry.max_retries == 2
    path.write_text("[policies.p]\nretry = { max_retries = -2 }")
    with pytest.raises(PolicyError):
        policies.load(path)
    assert policies.get("p").retry.max_retries == 2
    policies.reset()
    with pytest.raises(PolicyError):
        policies.get("p")


def test_code_survives_a_load(write):
    """load() replaces file and environment, not what code defined."""
    policies.define("code", Policy())
    policies.load(write("[policies.file]", "other.toml"))
    assert policies.names() == ["code", "file"]


def test_check_refuses_variables_for_no_policy(monkeypatch):
    """At the start of a service, a variable that nothing listens to is an error."""
    policies.define("realtime", Policy(cache={"ttl": 1}))
    policies.check()
    policies.reset()
    policies.define("realtime", Policy(cache={"ttl": 1}))
    monkeypatch.setenv("MLGUARD__REALTIM__CACHE__TTL", "5s")
    with pytest.raises(
        PolicyError, match=r"MLGUARD__REALTIM__CACHE__TTL: there is no policy 'realtim'. Did you mean 'realtime'"
    ):
        policies.check()


def test_a_preset_is_never_meant_by_a_bare_name(write):
    """A bare name is refused with the preset's full name, which works, also as a parent."""
    write('[policies.mine]\nextends = ["mlguard:realtime"]\ntimeout = { total = "1s" }')
    with pytest.raises(PolicyError, match="The preset of that name is 'mlguard:realtime'"):
        policies.get("realtime")
    assert policies.get("mlguard:realtime").name == "mlguard:realtime"
    mine = policies.get("mine")
    assert mine.timeout.total == 1
    assert mine.retry == policies.get("mlguard:realtime").retry
    assert policies.names() == ["mine"]
    with pytest.raises(PolicyError, match="Did you mean 'mlguard:realtime'"):
        policies.get("mlguard:realtim")


@pytest.mark.parametrize("name", ["realtime", "batch", "llm", "feature_store"])
def test_every_number_of_a_preset_has_its_reason(name):
    """Presets resolve, have a description, and each setting's line ends in a comment."""
    from importlib.resources import files

    lines = files("mlguard.policies").joinpath("presets.toml").read_text().splitlines()
    policy = policies.get(f"mlguard:{name}")
    assert policy.description
    for setting, origin in policies.origins(f"mlguard:{name}").items():
        assert "." not in setting or " # " in lines[int(origin.rsplit(":", 1)[1]) - 1]


def test_threads_may_define_and_use_at_once(write):
    """Decorators in many threads at import see one catalogue, read once."""
    write("[policies.file]\nretry = true")
    errors = []

    def work(number):
        try:
            for step in range(30):
                policies.define(f"p{number}_{step}", Policy(retry={"max_retries": step}))
                assert policies.get(f"p{number}_{step}").retry.max_retries == step
                assert policies.get("file").retry == Retry()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(policies.names()) == 181


def test_code_that_runs_while_the_file_is_read_may_define_policies(write, monkeypatch):
    """Looking up an exception class may run a module's code, which may define a policy: no lock is held meanwhile."""
    module = types.ModuleType("flaky_errors")

    def __getattr__(name):
        policies.define("own", Policy(retry=True))
        return ConnectionError

    module.__getattr__ = __getattr__
    monkeypatch.setitem(sys.modules, "flaky_errors", module)
    write('[policies.p]\nretry = { on = ["flaky_errors.Flaky"] }')
    assert policies.get("p").retry is not None
    assert policies.get("own").retry == Retry()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_child_of_a_fork_can_define_policies():
    """A lock that another thread held when the process forked does not stop the child."""
    with policies._catalogue()._lock:
        child = os.fork()
        if child == 0:
            try:
                policies.define("child", Policy())
                os._exit(0)
            except BaseException:
                os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
