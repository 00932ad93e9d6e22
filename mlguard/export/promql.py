"""PromQL out of the registry of metrics: a misspelt metric can't be written, a misspelt label is refused."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Final

from mlguard.errors import PolicyError
from mlguard.monitor.metrics import Metric

__all__ = ["BAD", "NOT_ASKED", "Query", "matchers_of"]

BAD: Final = "=~failed|rejected_memory|rejected_breaker|rejected_concurrency"
"""Dispositions that are the service's fault: what an error budget is spent on."""

NOT_ASKED: Final = "!~cancelled|rejected_validation"
"""All dispositions but those that are the caller's doing."""

_LABEL: Final = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*(=~|!~|!=|=)\s*("(?:[^"\\]|\\.)*")\s*')
_OPERATORS: Final = ("=~", "!~", "!=")


@dataclass(frozen=True, slots=True)
class Query:
    """Selects series of metrics, all of them with the same matchers.

    Args:
        matchers: What every selector has beside its own: ``job="api"``. May be empty.
    """

    matchers: str = ""

    def by(self, *labels: str) -> str:
        """``by (job, guard, ...)``: what sums are kept apart by, the labels of the matchers included."""
        named = [match[1] for match in _LABEL.finditer(self.matchers)]
        return f"by ({', '.join(dict.fromkeys(['job', *named, *labels]))})"

    def recorded(self, name: str) -> str:
        """The series of a recording rule, which have the labels of the matchers."""
        return f"{name}{{{self.matchers}}}" if self.matchers else name

    def __call__(self, metric: Metric, suffix: str = "", /, **labels: str) -> str:
        """A selector: ``name{job="api",guard="f"}``.

        Args:
            metric: The metric.
            suffix: Of a histogram: ``_bucket``, ``_sum`` or ``_count``.
            labels: Values, each with an operator before it unless that is ``=``: ``"=~a|b"``.

        Raises:
            ValueError: The metric has no such label.
        """
        unknown = labels.keys() - set(metric.labels)
        if unknown:
            raise ValueError(f"{metric.name} has no label {min(unknown)!r}, but {', '.join(metric.labels)}")
        matchers = [self.matchers] if self.matchers else []
        for name, value in labels.items():
            operator = next((each for each in _OPERATORS if value.startswith(each)), "")
            matchers.append(f"{name}{operator or '='}{json.dumps(value.removeprefix(operator))}")
        return f"{metric.name}{suffix}" + (f"{{{','.join(matchers)}}}" if matchers else "")


def matchers_of(selector: str | None, job: str | None) -> str:
    """The matchers that a command line asks for, checked.

    Args:
        selector: ``namespace="ml",app=~"score.*"``, with or without braces.
        job: Short for ``job="..."``.

    Raises:
        PolicyError: The selector is none.
    """
    found = [f"job={json.dumps(job)}"] if job else []
    text = (selector or "").strip()
    if text.startswith("{") and text.endswith("}"):
        text = text[1:-1]
    place = 0
    while place < len(text):
        match = _LABEL.match(text, place)
        if match is None or (match.end() < len(text) and text[match.end()] != ","):
            raise PolicyError(
                f"--selector {selector!r} can't be read from {text[place : place + 20]!r} on. "
                """Fix: matchers as PromQL has them, such as 'namespace="ml",app=~"score.*"'."""
            )
        found.append(f"{match[1]}{match[2]}{match[3]}")
        place = match.end() + 1
    return ",".join(found)
