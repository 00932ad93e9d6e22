import contextlib
import os
import string
import sys
import tomllib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlguard import policies
from mlguard.errors import PolicyError
from mlguard.policies import Policy
from mlguard.policies.lines import key_lines
from mlguard.policies.policy import section_classes

FIXTURES_ARE_FINE = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)


def problem(path=None):
    with pytest.raises(PolicyError) as caught:
        policies.load(path)
    return str(caught.value)


def test_the_file_is_found_from_the_working_directory_upwards(service, write, monkeypatch):
    """The nearest folder with a policy file wins; a pyproject.toml without a table for mlguard is none."""
    write("[policies.far]")
    (service / "near" / "deep").mkdir(parents=True)
    monkeypatch.chdir(service / "near" / "deep")
    (service / "near" / "pyproject.toml").write_text('[project]\ndependencies = ["mlguard"]')
    assert policies.names() == ["far"]
    (service / "near" / "pyproject.toml").write_text("[tool.mlguard.policies.near]\nretry = true")
    policies.reset()
    assert policies.names() == ["near"]
    assert f"{service}/near/pyproject.toml:2" in policies.explain("near")


def test_a_broken_pyproject_of_somebody_else_is_not_ours(service):
    """Only a pyproject.toml that may hold our table is read as one."""
    (service / "pyproject.toml").write_text("this = is = broken, mlguard")
    assert policies.names() == []
    (service / "pyproject.toml").write_text("[tool.mlguard.policies.p]\nretry = = 1")
    policies.reset()
    assert "pyproject.toml:2: is not valid TOML" in problem()


def test_two_files_in_one_folder_are_refused(write):
    """Nobody should have to guess which one counts."""
    write("[policies.a]")
    write("[tool.mlguard.policies.a]", "pyproject.toml")
    assert "holds several policy files: mlguard.toml and pyproject.toml" in problem()


def test_a_variable_names_the_file(service, write, monkeypatch):
    """MLGUARD_POLICIES wins over the search; a wrong one is refused by its path."""
    write("[policies.found]")
    write("[policies.named]", "other.toml")
    monkeypatch.setenv("MLGUARD_POLICIES", "other.toml")
    assert policies.names() == ["named"]
    monkeypatch.setenv("MLGUARD_POLICIES", "absent.toml")
    assert f"{service}/absent.toml: the policy file can't be read: No such file" in problem()


def test_a_working_directory_that_is_gone_is_no_error(service, monkeypatch):
    """A daemon whose folder was removed has the policies of its code."""
    (service / "gone").mkdir()
    monkeypatch.chdir(service / "gone")
    (service / "gone").rmdir()
    policies.define("p", Policy())
    assert policies.names() == ["p"]
    with pytest.raises(PolicyError, match="which is gone"):
        policies.get("q")


def test_all_problems_of_a_file_come_at_once(write, monkeypatch):
    """Each with file, line, field, value and fix; those of the environment as well."""
    path = write(
        """\
use = ["acme"]
polices = 3
[policies.a]
retyr = true
abstract = "yes"
description = 3
extends = 3
[policies.b]
retry = { max_retires = 3, max_retries = "3", jitter = 1, initial_delay = "30sec", budget = 7 }
timeout = { total = "1s", attempt = "2s" }
[policies.C]
memory = 7
[policies.d]
cache = { max_entries = true }
retry = { jitter = "true" }
"""
    )
    monkeypatch.setenv("MLGUARD__B__RETRY__MAX_RETRIES", "many")
    monkeypatch.setenv("MLGUARD__B__RETYR__MAX_RETRIES", "1")
    lines = problem().splitlines()
    expected = [
        "MLGUARD__B__RETYR__MAX_RETRIES: does not name a setting. Did you mean 'RETRY'?",
        "variable MLGUARD__B__RETRY__MAX_RETRIES: b.retry.max_retries = 'many': must be a number",
        f"{path}:1: use = ['acme']: no installed package has policies of that name",
        f"{path}:2: there is no setting 'polices' here. Did you mean 'policies'?",
        f"{path}:4: a.retyr: a policy has no section or setting 'retyr'. Did you mean 'retry'?",
        f"{path}:5: a.abstract = 'yes': must be true or false",
        f"{path}:6: a.description = 3: must be text",
        f"{path}:7: a.extends = 3: must be a name or a list of names",
        f"{path}:9: b.retry.max_retires: there is no setting 'max_retires'. Did you mean 'max_retries'?",
        f"{path}:9: b.retry.max_retries = '3': must be a number, without quotes",
        f"{path}:9: b.retry.jitter = 1: must be true or false",
        f"{path}:9: b.retry.initial_delay = '30sec': must be a duration",
        f"{path}:9: b.retry.budget = 7: must be less than or equal to 1",
        f"{path}:11: 'C' can't be the name of a policy",
        f"{path}:12: C.memory = 7: must be a table of its settings",
        f"{path}:14: d.cache.max_entries = True: must be a number",
        f"{path}:15: d.retry.jitter = 'true': must be true or false, without quotes",
    ]
    missing = [words for words in expected if not any(words in line for line in lines)]
    assert not missing
    assert sum("without quotes" in line for line in lines) == 2
    assert lines[0] == f"{len(lines) - 1} problems in the policies:"


def test_contradictions_and_gaps_are_found_after_inheritance(write):
    """What two policies say together is checked too, with the places of both."""
    path = write(
        """\
[policies.a]
timeout = { total = "1s" }
[policies.b]
extends = "a"
timeout = { attempt = "2s" }
[policies.c]
cache = { max_entries = 3 }
[policies.d]
retry = { initial_delay = "9s", max_delay = "1s" }
"""
    )
    message = problem()
    assert f"{path}:3: b: timeout.attempt = 2s: is longer than timeout.total = 1s" in message
    assert f"{path}:7: c.cache.ttl: is required. Fix: set cache.ttl" in message
    assert f"{path}:9: d.retry" in message
    assert "initial_delay" in message
    assert message.startswith("3 problems")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"[policies.a]\nretry = {", ":2: is not valid TOML"),
        (b"[policies.a]\n[policies.a]", ":2: is not valid TOML"),
        (b"x = " + b"9" * 5000, "is not valid TOML"),
        (b"\xff\xfe", ":1: is not UTF-8 text"),
        (b"#" * (1024 * 1024 + 1), "larger than 1MiB"),
        (b"x = " + b"[" * 5000, "nested too deeply"),
        (b"policies = 3", "must be a table of policies"),
        (b"[policies]\na = 3", "must be a table, such as"),
        (b"[policies.a]\nextends = [1]", "must be a name or a list"),
    ],
)
def test_broken_files_are_refused_with_their_place(service, data, words):
    """Whatever is wrong with the text, the error names the file, and the line where there is one."""
    path = service / "mlguard.toml"
    path.write_bytes(data)
    message = problem()
    assert message.startswith(str(path))
    assert words in message


def test_what_is_no_file_is_refused(service):
    """Folders, named pipes and other kinds of file are refused without waiting."""
    assert "can't be read: Is a directory" in problem(service)
    os.mkfifo(service / "pipe.toml")
    assert "is not a regular file" in problem(service / "pipe.toml")
    (service / "policies.json").write_text("{}")
    assert "ends in .toml, .yaml or .yml" in problem(service / "policies.json")


def test_a_byte_order_mark_is_no_problem(service):
    """Editors on Windows write one."""
    (service / "mlguard.toml").write_bytes(b"\xef\xbb\xbf[policies.a]\r\nretry = true\r\n")
    assert policies.get("a").retry is not None
    assert "mlguard.toml:1" in policies.explain("a")


def test_yaml_says_the_same_as_toml(write):
    """With lines; the key `on` is a word, and an empty document has no policies."""
    path = write(
        "policies:\n  p:\n    description: d\n    retry:\n      max_retries: 2\n      on: [KeyError]\n"
        "    breaker: false\n"
        "    cache: {ttl: null}\n",
        "mlguard.yaml",
    )
    policy = policies.get("p")
    assert policy.retry.max_retries == 2
    assert policy.retry.on != "transient"
    assert policy.cache.ttl is None
    assert f"{path}:5" in policies.explain("p")
    write("", "mlguard.yaml")
    policies.reload()
    assert policies.names() == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", ":1: is not valid YAML"),
        (
            "policies: !!python/object/apply:os.system ['true']",
            ":1: is not valid YAML for a policy file: could not determine",
        ),
        ("a: &x 1\nb: *x", r":2: YAML aliases (*x) are refused"),
        ("policies:\n  p:\n    retry: true\n    retry: false", ":4: 'retry' is written twice, first on line 3"),
        ("? [a]\n: 1", ":1: a key must be a word"),
        ("a: 2024-99-99", "is not valid YAML"),
        ("- a", "must be a table that holds"),
        ("policies:\n  p:\n    retry:\n", ":3: p.retry = None: must be a table of its settings, true for"),
        ("a: " + "[" * 3000, "nested too deeply"),
    ],
)
def test_yaml_that_is_more_than_data_is_refused(write, text, words):
    """Objects, aliases, repeated keys and broken text are errors with a line."""
    write(text, "mlguard.yaml")
    assert words in problem()


def test_yaml_without_pyyaml_names_the_install_line(write, monkeypatch):
    """PyYAML is an extra."""
    write("policies: {}", "mlguard.yml")
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert "Fix: pip install pyyaml, or write" in problem()


@pytest.mark.parametrize(
    ("variable", "text", "attribute", "value"),
    [
        ("RETRY__MAX_RETRIES", "5", "max_retries", 5),
        ("RETRY__MAX_DELAY", "30s", "max_delay", 30),
        ("RETRY__JITTER", "false", "jitter", False),
        ("RETRY__BUDGET", "false", "budget", None),
        ("RETRY", "{ max_retries = 9 }", "max_retries", 9),
    ],
)
def test_variables_change_single_settings(write, monkeypatch, variable, text, attribute, value):
    """Their text is read as TOML where it is TOML, and as text where not."""
    write("[policies.p_q]\nretry = { max_retries = 1, budget = 0.1 }")
    monkeypatch.setenv(f"MLGUARD__P_Q__{variable}", text)
    assert getattr(policies.get("p_q").retry, attribute) == value


def test_variables_switch_sections(write, monkeypatch):
    """False removes a section, true with a setting beside it asks for one, and both at once contradict each other."""
    write("[policies.p]\nretry = true")
    monkeypatch.setenv("MLGUARD__P__RETRY", "false")
    monkeypatch.setenv("MLGUARD__P__BREAKER", "true")
    monkeypatch.setenv("MLGUARD__P__BREAKER__MINIMUM_CALLS", "3")
    assert policies.get("p").retry is None
    assert policies.get("p").breaker.minimum_calls == 3
    monkeypatch.setenv("MLGUARD__P__RETRY__MAX_RETRIES", "3")
    assert "MLGUARD__P__RETRY__MAX_RETRIES: contradicts MLGUARD__P__RETRY." in problem()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("abc", "'abc': must be a number"),
        ("05", "'05': must be a number"),
        ("[" * 99999, "...: must be a number"),
        ('"5"', "'5': must be a number, without quotes"),
    ],
)
def test_quotes_are_blamed_where_there_are_some(write, monkeypatch, text, words):
    """What is wrong with a variable is told without quotes that nobody typed."""
    write("[policies.p]")
    monkeypatch.setenv("MLGUARD__P__RETRY__MAX_RETRIES", text)
    assert problem().endswith(words)


@pytest.mark.parametrize("variable", ["MLGUARD__", "MLGUARD__P", "MLGUARD__p__RETRY", "MLGUARD__P__NOTHING__X"])
def test_variables_that_name_no_setting_are_refused(monkeypatch, variable):
    """A variable with our prefix is never ignored."""
    monkeypatch.setenv(variable, "1")
    assert f"{variable}: does not name a setting" in problem()


def test_a_variable_cannot_smuggle_in_a_second_setting(write, monkeypatch):
    """A value of several TOML lines is text, and refused as such."""
    write("[policies.p]\nretry = true")
    monkeypatch.setenv("MLGUARD__P__RETRY__MAX_RETRIES", "5\nother = 1")
    assert "must be a number" in problem()


# --- random files -----------------------------------------------------------------------------------------------------

durations = st.integers(1, 10_000).map(lambda number: f"{number}ms")
tables = {
    "retry": st.fixed_dictionaries(
        {}, optional={"max_retries": st.integers(0, 20), "jitter": st.booleans(), "backoff_factor": st.floats(1, 5)}
    ),
    "timeout": st.fixed_dictionaries({"total": durations}),
    "cache": st.fixed_dictionaries({"ttl": durations}, optional={"max_entries": st.integers(1, 10**6)}),
    "breaker": st.fixed_dictionaries({}, optional={"minimum_calls": st.integers(1, 100), "window": durations}),
    "concurrency": st.fixed_dictionaries({"max_concurrent": st.integers(1, 100)}),
    "memory": st.fixed_dictionaries({}, optional={"threshold": st.floats(0.1, 1), "max_wait": durations}),
    "monitor": st.fixed_dictionaries({}, optional={"log": st.booleans(), "slow_call": durations}),
    "validation": st.fixed_dictionaries({}, optional={"strict": st.booleans(), "output": st.booleans()}),
}
random_policies = st.fixed_dictionaries({}, optional={name: table | st.just(False) for name, table in tables.items()})
names = st.from_regex(r"[a-z][a-z0-9_]{0,12}", fullmatch=True)


def toml_of(value):
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml_of(item)}" for key, item in value.items()) + " }"
    return f'"{value}"' if isinstance(value, str) else repr(value)


@FIXTURES_ARE_FINE
@given(st.dictionaries(names, random_policies, max_size=4))
def test_policies_come_back_from_a_file_as_they_were(write, found):
    """What Policy accepts, a file can say, with the same result."""
    text = "\n".join(
        "\n".join([f"[policies.{name}]", *(f"{key} = {toml_of(value)}" for key, value in sections.items())])
        for name, sections in found.items()
    )
    policies.load(write(text))
    for name, sections in found.items():
        made = Policy(name=name, **sections)
        assert policies.get(name) == made
        assert policies.get(name).fingerprint == made.fingerprint


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(string.printable, max_size=8) | st.dates(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(string.ascii_lowercase, max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
settings_of_anything = st.sampled_from(
    [
        "policies",
        "use",
        "extends",
        "abstract",
        *section_classes(),
        *(key for cls in section_classes().values() for key in cls.model_fields),
    ]
)
garbage = st.recursive(plain, lambda inner: st.dictionaries(settings_of_anything, inner, max_size=4), max_leaves=12)


@FIXTURES_ARE_FINE
@given(
    st.dictionaries(
        st.sampled_from(["p", "q", "P", ""]), st.dictionaries(settings_of_anything, garbage, max_size=4), max_size=3
    )
)
def test_wrong_values_give_a_policy_error_and_nothing_else(service, found):
    """Any tree of values is either a file of policies or a PolicyError."""
    yaml = pytest.importorskip("yaml")
    path = service / "random.yaml"
    path.write_text(yaml.dump({"policies": found}, Dumper=NoAliases), encoding="utf-8")
    with contextlib.suppress(PolicyError):
        policies.load(path)
        policies.check()
        for name in policies.names():
            policies.explain(name)


def _no_aliases():
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data):
            return True

    return Dumper


NoAliases = _no_aliases()


@FIXTURES_ARE_FINE
@given(st.binary(max_size=60) | st.text("[]{}=.,\"'#\n \\policesretry123true", max_size=80).map(str.encode))
def test_random_bytes_give_a_policy_error_and_nothing_else(service, data):
    """No text of a file escapes as another exception."""
    for name in ("random.toml", "random.yaml"):
        (service / name).write_bytes(data)
        with contextlib.suppress(PolicyError):
            policies.load(service / name)


TOML = '''\
# a comment with [brackets] and key = 1
top = 1
"quoted key".'and.dots' = """
not = "a key" \\"""
"""
list = [ # comment ]
  1, "]", [2, '}'], { inner = 1 },
]
when = 1979-05-27 07:32:00
[ table . "sub" ]
a = { b = { c = 1 }, "d" = \'\'\'x\'\'\' }
[[array]]
x = "#"
[[array]]
y.z = true # end'''


def test_every_key_of_a_toml_text_has_its_line():
    """Strings, comments, arrays and inline tables don't confuse the count."""
    assert tomllib.loads(TOML)
    assert key_lines(TOML) == {
        ("top",): 2,
        ("quoted key",): 3,
        ("quoted key", "and.dots"): 3,
        ("list",): 6,
        ("list", "3", "inner"): 7,
        ("when",): 9,
        ("table",): 10,
        ("table", "sub"): 10,
        ("table", "sub", "a"): 11,
        ("table", "sub", "a", "b"): 11,
        ("table", "sub", "a", "b", "c"): 11,
        ("table", "sub", "a", "d"): 11,
        ("array",): 12,
        ("array", "x"): 13,
        ("array", "y"): 15,
        ("array", "y", "z"): 15,
    }
