"""Policies against the code that uses them: what `mlguard policies check` finds, without importing anything."""

from __future__ import annotations

import json
import textwrap

import pytest
from typer.testing import CliRunner

from mlguard.cli.app import app
from mlguard.policies.lint import check

FILE = """\
[policies.base]
abstract = true
retry = { max_retries = 2 }
[policies.good]
extends = "base"
cache = { ttl = "30s" }
[policies.unused]
extends = "base"
"""


@pytest.fixture
def code(service):
    """Writes a module of the service; importing it would fail."""

    def code(text, name="service.py"):
        path = service / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("import nothing_of_that_name\n" + textwrap.dedent(text))
        return path

    return code


def findings(service, level=None):
    report = check([service])
    return [
        f"{each.where.removeprefix(f'{service}/')}: {each.text}"
        for each in report.findings
        if level in (None, each.level)
    ]


def test_a_name_that_is_not_defined(service, write, code):
    """It is an error at its line, with the nearest name; names under other imports are found as well."""
    write(FILE.replace("unused", "other"))
    code(
        """
        import mlguard
        import mlguard as guards
        from mlguard import guarded as g, policies as named
        from mlguard.policies import get

        @g("good")
        def a(): ...
        @mlguard.guarded("god")
        def b(): ...
        class Model:
            @guards.guarded("other")
            async def c(self): ...
            @classmethod
            @guards.guarded("Oh no", retry=False)
            def d(cls): ...
        named.get("missing")
        get("mlguard:realtime"), get("mlguard:realtim")
        """
    )
    assert findings(service) == [
        "service.py:10: there is no policy named 'god'. Did you mean 'good'? Fix: correct the name",
        "service.py:16: there is no policy named 'Oh no'. Fix: names are [a-z][a-z0-9_]*",
        "service.py:18: there is no policy named 'missing'. Fix: define [policies.missing]",
        "service.py:19: there is no policy named 'mlguard:realtim'. Fix: define [policies.mlguard:realtim]",
    ]


def test_policies_that_nothing_uses(service, write, code):
    """A policy of the file that neither code nor a used policy mentions is a warning at its place."""
    path = write(FILE)
    code("from mlguard import guarded\nguarded('good')(print)\n")
    (finding,) = check([service]).findings
    assert (finding.level, finding.where) == ("warning", f"{path}:7")
    assert "policy 'unused' is never used" in finding.text


def test_names_that_only_running_would_tell(service, write, code):
    """They are listed as such; a constant is followed, one that is assigned twice is not."""
    write("[policies.one]\n[policies.two]\n")
    code(
        """
        from mlguard import Policy, guarded
        ONE = "one"
        TWO = "two"
        for TWO in names: ...
        guarded(ONE)(f)
        guarded(TWO)(f)
        guarded(f"p{1}")(f)
        guarded(Policy())(f)
        guarded(lambda x: x)
        guarded(retry=True)(f)
        """
    )
    assert findings(service, "note") == [
        "service.py:8: can't tell which policy TWO is without running the code",
        "service.py:9: can't tell which policy f'p{1}' is without running the code",
    ]
    assert findings(service, "error") == []


def test_what_only_looks_like_a_use_is_none(service, write, code):
    """Other modules of that name, parameters, locals and objects are no names of policies, and no error."""
    write("")
    code(
        """
        from .mlguard import guarded as theirs
        from mlguard import Policy, guarded, policies
        POLICY = Policy()
        OTHER = POLICY.merged({})
        @theirs("not_ours")
        def predict(x): ...
        def make(name): return guarded(name)(predict)
        def other(): name = "whatever"
        def lookup(policies): return policies.get("not_ours")
        def locally(): policies = {}; return policies.get("not_ours")
        guarded(predict), guarded(POLICY)(predict), guarded(OTHER)(predict)
        guarded(policies.get("mlguard:llm"))(predict)
        (lambda policies: policies.get("not_ours"))({})
        """
    )
    assert findings(service) == ["service.py:9: can't tell which policy name is without running the code"]


def test_star_imports(service, write, code):
    """What they bring is recognised."""
    write("")
    code("from mlguard import *\nguarded('absent')(f)\n")
    code("from mlguard.policies import *\nget('gone')\n", "other.py")
    assert [each.partition(". Fix")[0] for each in findings(service)] == [
        "other.py:3: there is no policy named 'gone'",
        "service.py:3: there is no policy named 'absent'",
    ]


def test_options_that_can_not_be_seen_are_no_contradiction(service, write, code):
    """What the decorator may say itself is not held against the policy."""
    write(FILE + "[policies.safe]\nvalidation = { on_invalid = 'fallback' }\n")
    code(
        """
        from mlguard import guarded
        guarded("safe", **options)(f)
        guarded("safe", validation={"on_invalid": "raise"})(f)
        guarded("good", deterministic=False, **options)(f)
        guarded("unused")(f)
        """
    )
    assert findings(service) == []


def test_a_parent_that_code_defines(service, write, code):
    """A policy of the file may extend one of the code; a parent that nobody defines is said once, at its child."""
    path = write("[policies.child]\nextends = 'coded'\n[policies.orphan]\nextends = 'nobody'\n")
    code(
        """
        from mlguard import Policy, guarded, policies
        CODED = Policy(name="coded")
        policies.define(CODED)
        guarded("child")(f), guarded("orphan")(f)
        """
    )
    (finding,) = check([service]).findings
    assert (finding.level, finding.where) == ("error", f"{path}:3")
    assert "'orphan' extends 'nobody', which is not defined" in finding.text


def test_a_service_that_loads_its_file_itself(service, write, code):
    """Where code says which file counts, and --file does not, a name that is not found is no error."""
    code(
        """
        from mlguard import guarded, policies
        policies.load("conf/own.toml")
        guarded("own")(f)
        """
    )
    own = write("[policies.other]\n", "own.toml")
    assert findings(service) == [
        f"service.py:5: can't tell whether there is a policy named 'own': {service}/service.py:4 loads a file. "
        "Fix: name that file with --file"
    ]
    assert [each.level for each in check([service], own).findings] == ["error", "warning"]


def test_a_file_that_is_no_python_hides_no_other_problem(service, write, code):
    """The rest is judged all the same, but for what may be used in the file that can't be read."""
    write(FILE)
    code("def broken(:\n", "a.py")
    code("from mlguard import guarded\nguarded('bad')(f)\n")
    assert [each.partition(":")[0] for each in findings(service)] == ["a.py", "service.py"]


def test_generated_code(service, write, code, recwarn):
    """Deep nesting and doubtful escapes are read without a word."""
    write("")
    code("x = " + "+".join(["1"] * 900) + '\ny = "\\d" is 1\n')
    assert findings(service) == []
    assert not recwarn.list


def test_policies_that_code_defines(service, code):
    """A name that code gives to a policy is defined, wherever under the paths."""
    code(
        """
        from mlguard import Policy, policies
        policies.define("coded", Policy())
        policies.define(Policy(name="named"))
        policies.define(*anything)
        """,
        "package/definitions.py",
    )
    code("from mlguard import guarded\nguarded('coded')(f), guarded('named')(f)\n")
    assert findings(service, "error") == []
    assert findings(service, "note") == [
        "package/definitions.py:6: can't tell which policy policies.define(*anything) is without running the code"
    ]


def test_contradictions_of_policy_and_use(service, write, code):
    """A cache for what is not deterministic, an abstract policy, a fallback that nobody gives."""
    write(FILE + "[policies.safe]\nvalidation = { on_invalid = 'fallback' }\n")
    code(
        """
        from mlguard import guarded
        guarded("good", deterministic=False)(f)
        guarded("good", deterministic=False, cache=False)(f)
        guarded("base")(f)
        guarded("safe")(f)
        guarded("safe", fallback=None)(f)
        guarded("unused")(f)
        """
    )
    assert findings(service) == [
        f"service.py:4: deterministic=False, but policy 'good' caches results ({service}/mlguard.toml:6). "
        "Fix: cache=False here, or drop deterministic=False",
        "service.py:6: policy 'base' is abstract. Fix: use one that extends it",
        f"service.py:7: policy 'safe' has validation.on_invalid = 'fallback' ({service}/mlguard.toml:10), but neither "
        'it nor the decorator has a fallback. Fix: fallback=VALUE here, or on_invalid = "raise" there',
    ]


def test_what_can_not_fit_the_deadline(service, write, code):
    """Pauses and waits that are longer than the whole call are warned of, with the figures."""
    write(
        """\
[policies.slow]
timeout = { total = "1s" }
retry = { max_retries = 5, initial_delay = "1s" }
concurrency = { max_concurrent = 1, max_wait = "5s" }
memory = true
[policies.even]
timeout = { total = "1s" }
retry = { max_retries = 2, initial_delay = "400ms", jitter = false }
[policies.fine]
timeout = { total = "10s" }
retry = { max_retries = 2, initial_delay = "400ms" }
"""
    )
    code("from mlguard import guarded\nguarded('slow')(f), guarded('fine')(f), guarded('even')(f)\n")
    assert findings(service) == [
        "mlguard.toml:3: slow.retry.max_retries: the pauses of 5 retries take 12.5s on average, which does not fit "
        "timeout.total = 1s. Fix: fewer retries, shorter pauses (initial_delay, max_delay), or more time",
        "mlguard.toml:4: slow.concurrency.max_wait: waiting 5s is longer than timeout.total = 1s. "
        "Fix: a shorter max_wait, or more time",
        "mlguard.toml:5: slow.memory.max_wait: waiting 5s is longer than timeout.total = 1s. "
        "Fix: a shorter max_wait, or more time",
        "mlguard.toml:8: even.retry.max_retries: the pauses of 2 retries take 1.2s on average, which does not fit "
        "timeout.total = 1s. Fix: fewer retries, shorter pauses (initial_delay, max_delay), or more time",
    ]


def test_a_broken_policy_file_is_every_problem_of_it(service, write, code):
    """All problems come with file and line; the uses are not judged by a file that can't be read."""
    write("[policies.p]\nretry = { max_retires = 1 }\ntimeout = { total = '1s', attempt = '2s' }\ncahce = true\n")
    code("from mlguard import guarded\nguarded('q')(f)\n")
    found = findings(service)
    assert [each.partition(": ")[0] for each in found] == ["mlguard.toml:2", "mlguard.toml:4"]
    assert not any("'q'" in each for each in found)


def test_code_that_is_no_python(service, write, code):
    """A file that can't be read is an error at its line, not a green check."""
    write("")
    code("def broken(:\n")
    (service / "latin.py").write_bytes(b"x = '\xff'\n")
    found = findings(service, "error")
    assert len(found) == 2
    assert found[0].startswith("latin.py")
    assert found[1].startswith("service.py:2: invalid syntax")


def test_folders_that_are_not_the_service_are_left_out(service, write, code):
    """Virtual environments, hidden folders and builds are not read; a named file always is."""
    write("")
    bad = "from mlguard import guarded\nguarded('absent')(f)\n"
    for folder in (".hidden", "build", "node_modules", "venv"):
        code(bad, f"{folder}/m.py")
    (service / "venv" / "pyvenv.cfg").touch()
    assert findings(service) == []
    assert len(check([service / "build" / "m.py"]).findings) == 1


def test_the_file_of_the_checked_folder_counts(service, write, code):
    """In a repository of several services, each is checked against its own policies."""
    (service / "a").mkdir()
    (service / "a" / "mlguard.toml").write_text("[policies.mine]\n")
    code("from mlguard import guarded\nguarded('mine')(f)\n", "a/m.py")
    assert check([service / "a"]).findings == ()
    assert check([service / "a" / "m.py"]).findings == ()
    other = service / "other.toml"
    other.write_text("")
    assert len(check([service / "a"], other).findings) == 1


class TestCommand:
    def test_exit_codes(self, service, write, code):
        """0 where nothing is wrong, 1 for errors and with --strict for warnings, 2 for a path that is not there."""
        write(FILE)
        code("from mlguard import guarded\nguarded('good')(f)\n")
        assert run("check", str(service)).exit_code == 0
        assert run("check", "--strict", str(service)).exit_code == 1
        code("from mlguard import guarded\nguarded('bad')(f)\n")
        result = run("check", str(service))
        assert result.exit_code == 1
        assert f"{service}/service.py:3: error: there is no policy named 'bad'" in result.stdout
        assert "1 Python files, 1 uses of policies: 1 errors, 3 warnings, 0 notes." in result.stdout
        assert run("check", str(service / "absent")).exit_code == 2

    def test_json(self, service, write, code):
        """Programs get level, place and text."""
        write("")
        code("from mlguard import guarded\nguarded('bad')(f)\n")
        (finding,) = json.loads(run("check", "--json", str(service)).stdout)
        assert finding.keys() == {"level", "where", "text"}

    def test_diff(self, service, write):
        """Two policies side by side, with the place of each value."""
        write("[policies.a]\nretry = { max_retries = 1 }\nmemory = true\n[policies.b]\nextends='a'\nmemory = false\n")
        shown = run("diff", "a", "b").stdout
        assert "memory.threshold" in shown
        assert "0.85" in shown
        assert "removed at" in shown
        assert "retry.max_retries" not in shown
        assert run("diff", "a", "a").stdout == "a and a say the same.\n"

    def test_diff_of_abstract_policies(self, service, write):
        """What an abstract policy leaves open is no difference."""
        write("[policies.a]\nabstract = true\nretry = { max_retries = 1 }\n[policies.b]\nretry = { max_retries = 2 }\n")
        assert "retry.max_retries" in run("diff", "a", "b").stdout


def run(*arguments: str):
    return CliRunner(env={"COLUMNS": "300"}).invoke(app, ["policies", *arguments])
