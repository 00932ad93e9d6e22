import json
import tomllib
from pathlib import Path

import pytest

from mlguard.policies.files import read
from mlguard.policies.policy import section_classes
from mlguard.policies.schema import policy_schema

CODE_ONLY = {"retry": {"on_result"}}  # functions, which a file can't hold
FILE = Path(__file__).parents[2] / "schemas" / "policy.schema.json"


def test_the_schema_in_the_repository_is_current():
    """Update it with: python -m mlguard.policies.schema > schemas/policy.schema.json."""
    assert json.loads(FILE.read_text(encoding="utf-8")) == policy_schema()


def test_every_setting_is_described_and_has_its_default():
    """Editors show what a setting means; a default is there where JSON can say it."""
    definitions = policy_schema()["$defs"]
    for name, section in section_classes().items():
        assert section.model_fields.keys() - definitions[name]["properties"].keys() == CODE_ONLY.get(name, set())
        for key, field in section.model_fields.items():
            if key in CODE_ONLY.get(name, ()):
                continue
            setting = definitions[name]["properties"][key]
            assert setting["description"], f"{name}.{key}"
            if isinstance(field.default, bool | int | float | str):
                assert setting["default"] == field.default


@pytest.mark.parametrize(
    ("policy", "good"),
    [
        ({"retry": {"max_retries": 3, "initial_delay": "30s", "budget": False}}, True),
        ({"extends": ["mlguard:realtime", "base"], "cache": {"max_entries": 3}, "breaker": False}, True),
        ({"cache": {"ttl": False}, "timeout": {"total": 3}}, True),
        ({"retry": {"initial_delay": "30sec"}}, False),
        ({"retry": {"max_retires": 3}}, False),
        ({"retry": {"max_retries": "3"}}, False),
        ({"retyr": True}, False),
        ({"abstract": "yes"}, False),
        ({"extends": "Not A Name"}, False),
        ({"extends": ""}, False),
        ({"breaker": {"per": "request.host"}, "cache": {"ttl": "1h", "tenant": "customer"}}, True),
        ({"validation": {"check": "metadata", "max_bytes": "5MiB"}}, True),
        ({"validation": {"check": "some"}}, False),
        ({"retry": {"on_result": "f"}}, False),
        ({"name": "p"}, False),
    ],
)
def test_the_schema_and_the_loader_agree_on_a_policy(tmp_path, policy, good):
    """What an editor marks is what the loader refuses."""
    jsonschema = pytest.importorskip("jsonschema")
    from mlguard.policies.entries import read_entry

    problems = []
    read_entry("p", policy, lambda path: "here", problems)
    errors = list(jsonschema.Draft202012Validator(policy_schema()).iter_errors({"policies": {"p": policy}}))
    assert (not problems) == good
    assert (not errors) == good


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ('use = ["acme_policies"]', True),
        ('use = "acme_policies"', True),
        ("use = []", True),
        ('use = [""]', False),
        ("use = [1]", False),
        ("uses = []", False),
        ("[policies.p]", True),
        ("[policies.P]", False),
        ("[polices.p]", False),
        ("policies = 1", False),
    ],
)
def test_the_schema_and_the_loader_agree_on_a_file(tmp_path, text, good):
    """So it is outside of the policies, where a service lists the packages it trusts."""
    jsonschema = pytest.importorskip("jsonschema")
    path = tmp_path / "mlguard.toml"
    path.write_text(text)
    problems = []
    read(path, problems)
    assert (not problems) == good
    assert jsonschema.Draft202012Validator(policy_schema()).is_valid(tomllib.loads(text)) == good
