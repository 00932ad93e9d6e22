"""YAML policy files, with the line of every key. PyYAML builds plain values only; keys are taken as they are written.

YAML 1.1 reads the key ``on`` as true, so keys are taken as text. Aliases are refused: a few lines of them unfold into
gigabytes, and `extends` says the same thing in every format.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlguard.errors import PolicyError

__all__ = ["load_yaml"]


def load_yaml(text: str, path: Path) -> tuple[Any, Mapping[tuple[str, ...], int]]:
    """The values of a YAML text, and the line of each key by its full path.

    Raises:
        PolicyError: It is not valid YAML, has aliases, repeats a key, or asks for an object; or PyYAML is missing.
    """
    try:
        import yaml
    except ImportError:
        raise PolicyError(
            f"{path}: reading YAML needs PyYAML. Fix: pip install pyyaml, or write the file as mlguard.toml."
        ) from None
    try:
        for token in yaml.scan(text, Loader=yaml.SafeLoader):
            if isinstance(token, yaml.AliasToken):
                line = token.start_mark.line + 1
                raise PolicyError(f"{path}:{line}: YAML aliases (*{token.value}) are refused. Fix: use `extends`.")
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        lines: dict[tuple[str, ...], int] = {}
        return ({} if node is None else _value(loader, node, (), lines, path)), lines
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        if isinstance(error, PolicyError):
            raise
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or str(error)
        raise PolicyError(f"{where}: is not valid YAML for a policy file: {problem}.") from None


def _value(loader: Any, node: Any, field: tuple[str, ...], lines: dict[tuple[str, ...], int], path: Path) -> Any:
    if node.id == "sequence" and node.tag == "tag:yaml.org,2002:seq":
        return [_value(loader, item, (*field, str(at)), lines, path) for at, item in enumerate(node.value)]
    if node.id != "mapping" or node.tag != "tag:yaml.org,2002:map":
        return loader.construct_object(node, deep=True)
    found: dict[str, Any] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if key.id != "scalar":
            raise PolicyError(f"{path}:{line}: a key must be a word.")
        if key.value in found:
            raise PolicyError(
                f"{path}:{line}: '{key.value}' is written twice, first on line {lines[*field, key.value]}."
            )
        lines[*field, key.value] = line
        found[key.value] = _value(loader, value, (*field, key.value), lines, path)
    return found
