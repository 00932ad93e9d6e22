import json
from pathlib import Path

import pytest

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
        ({"name": "p"}, False),
    ],
)
def test_the_schema_and_the_loader_agree(tmp_path, policy, good):
    """What an editor marks is what the loader refuses."""
    jsonschema = pytest.importorskip("jsonschema")
    from mlguard.policies.entries import read_entry

    problems = []
    read_entry("p", policy, lambda path: "here", problems)
    errors = list(jsonschema.Draft202012Validator(policy_schema()).iter_errors({"policies": {"p": policy}}))
    if policy.get("extends") != "Not A Name":  # the loader refuses it as an unknown parent
        assert (not problems) == good
    assert (not errors) == good
