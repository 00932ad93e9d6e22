"""What is wrong with named policies and their use in code, before anything runs: ``mlguard policies check``.

The policies are read as a service would read them; the code is read from its syntax tree (`uses.py`), so that nothing
of it is imported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mlguard.clock import duration_text, seconds
from mlguard.errors import PolicyError
from mlguard.policies.catalogue import Catalogue
from mlguard.policies.explained import origins
from mlguard.policies.lineage import Resolved, UnknownParentError
from mlguard.policies.policy import NAME, PRESET, Policy
from mlguard.policies.uses import Use, Uses, read_uses
from mlguard.section import nearest, shown

__all__ = ["Finding", "Report", "check"]


_LEVELS = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or that a person should look at."""

    level: Literal["error", "warning", "note"]
    where: str
    """File and line; for a value of the environment, its variable."""
    text: str
    """What is wrong, and the fix."""


@dataclass(frozen=True)
class Report:
    """What a check found."""

    findings: tuple[Finding, ...]
    files: int
    """Python files that were read."""
    uses: int
    """Mentions of policies in them."""

    def count(self, level: str) -> int:
        """How many findings are of that level."""
        return sum(finding.level == level for finding in self.findings)


def check(paths: list[Path], policy_file: Path | None = None) -> Report:
    """Reads policies and code, and says what does not fit.

    Errors: a policy that is used but not defined, or abstract, or that contradicts itself or its use. Warnings: a
    policy that nothing uses, retries that can't fit their deadline. Notes: names that only running the code would tell.

    Args:
        paths: Python files, and folders of them.
        policy_file: The policies; None: the file that a service started in the first of the folders would find.
    """
    findings: list[Finding] = []
    catalogue = Catalogue()
    try:
        start = paths[0].absolute() if paths else Path.cwd()
        catalogue = catalogue.candidate(policy_file, start=start if start.is_dir() else start.parent)
    except PolicyError as error:
        lines = str(error).splitlines()
        problems = lines[1:] if len(lines) > 1 else lines
        findings.extend(_placed("error", problem.strip()) for problem in problems)
    uses = read_uses(paths)
    if not findings:
        findings.extend(_of_uses(uses, catalogue, elsewhere="" if policy_file else " and ".join(uses.loads)))
        findings.extend(_of_policies(catalogue, uses.defined))
        if not uses.unreadable:
            findings.extend(_unused({use.name for use in uses.used if use.name is not None}, catalogue))
    findings.extend(_placed("error", f"{each}. Fix: make it valid Python, or leave it out") for each in uses.unreadable)
    return Report(tuple(sorted(findings, key=_order)), uses.files, len(uses.used))


def _order(finding: Finding) -> tuple[int, str, int]:
    file, _, line = finding.where.rpartition(":")
    return _LEVELS.index(finding.level), file, int(line) if line.isdigit() else 0


def _placed(level: Literal["error", "warning", "note"], problem: str) -> Finding:
    where, found, text = problem.partition(": ")
    return Finding(level, where, text) if found else Finding(level, "policies", problem)


def _of_uses(uses: Uses, catalogue: Catalogue, *, elsewhere: str) -> Iterator[Finding]:
    known = [*catalogue.names(), *uses.defined]
    for use in uses.used:
        if use.name is None:
            yield Finding("note", use.where, f"can't tell which policy {use.text} is without running the code")
            continue
        if use.name in uses.defined:
            continue
        try:
            resolved = catalogue.get(use.name)
        except UnknownParentError:
            continue  # said of the policy, where code does not define the parent
        except PolicyError:
            hint = nearest(use.name, known)
            if elsewhere:
                told = f"can't tell whether there is a policy named {shown(use.name)}: {elsewhere} loads a file"
                yield Finding("note", use.where, f"{told}. Fix: name that file with --file")
                continue
            fix = "correct the name" if hint else f"define [policies.{use.name}]"
            if not NAME.fullmatch(use.name.removeprefix(PRESET)):
                fix = "names are [a-z][a-z0-9_]*"
            yield Finding("error", use.where, f"there is no policy named {shown(use.name)}.{hint} Fix: {fix}")
            continue
        if resolved.policy is None:
            yield Finding("error", use.where, f"policy '{use.name}' is abstract. Fix: use one that extends it")
        else:
            yield from _of_use(use, resolved, resolved.policy)


def _of_use(use: Use, resolved: Resolved, policy: Policy) -> Iterator[Finding]:
    where = origins(resolved)
    if policy.cache and not use.deterministic and "cache" not in use.removed:
        yield Finding(
            "error",
            use.where,
            f"deterministic=False, but policy '{use.name}' caches results ({where['cache']}). "
            "Fix: cache=False here, or drop deterministic=False",
        )
    answered = use.fallback or (policy.fallback is not None and "fallback" not in use.removed)
    validation = None if "validation" in use.removed else policy.validation
    if validation is not None and validation.on_invalid in ("fallback", "quarantine") and not answered:
        yield Finding(
            "error",
            use.where,
            f"policy '{use.name}' has validation.on_invalid = '{validation.on_invalid}' "
            f"({where['validation.on_invalid']}), but neither it nor the decorator has a fallback. "
            'Fix: fallback=VALUE here, or on_invalid = "raise" there',
        )


def _of_policies(catalogue: Catalogue, defined: Mapping[str, str]) -> Iterator[Finding]:
    for name in catalogue.names():
        try:
            resolved = catalogue.get(name)
        except PolicyError as error:
            if isinstance(error, UnknownParentError) and error.parent in defined:
                continue
            yield _placed("error", str(error))
            continue
        if resolved.policy is not None:
            yield from _out_of_time(resolved, resolved.policy)


def _out_of_time(resolved: Resolved, policy: Policy) -> Iterator[Finding]:
    """What waits longer than the whole call may take."""
    if policy.timeout is None or policy.timeout.total is None:
        return
    limit = seconds(policy.timeout.total)
    where = origins(resolved)

    def finding(setting: str, told: str, fix: str) -> Finding:
        place = where.get(setting) or where.get(setting.partition(".")[0]) or where["timeout.total"]
        return Finding(
            "warning", place, f"{resolved.name}.{setting}: {told} timeout.total = {duration_text(limit)}. Fix: {fix}"
        )

    if policy.retry:
        pauses = _pauses(policy)
        if pauses >= limit:
            yield finding(
                "retry.max_retries",
                f"the pauses of {policy.retry.max_retries} retries take {duration_text(pauses)} on average, which "
                "does not fit",
                "fewer retries, shorter pauses (initial_delay, max_delay), or more time",
            )
    for section in ("concurrency", "memory"):
        settings = getattr(policy, section)
        if settings is not None and seconds(settings.max_wait) > limit:
            told = f"waiting {duration_text(seconds(settings.max_wait))} is longer than"
            yield finding(f"{section}.max_wait", told, "a shorter max_wait, or more time")


def _pauses(policy: Policy) -> float:
    """Seconds that all pauses between attempts take together; with jitter, half of the backoff on average."""
    retry = policy.retry
    if retry is None:
        return 0.0
    first, longest = seconds(retry.initial_delay), seconds(retry.max_delay)
    whole = sum(min(longest, first * retry.backoff_factor**number) for number in range(retry.max_retries))
    return whole / 2 if retry.jitter else whole


def _unused(used: set[str], catalogue: Catalogue) -> Iterator[Finding]:
    """Policies of the service's own file that neither code nor another policy in use mentions."""
    reached = set(used)
    rest = list(used)
    while rest:
        try:
            parents = catalogue.get(rest.pop()).parents
        except PolicyError:
            continue
        rest.extend(parent for parent in parents if parent not in reached)
        reached.update(parents)
    for name, origin in catalogue.own().items():
        if name not in reached:
            yield Finding("warning", origin, f"policy '{name}' is never used by the code that was read. Fix: drop it")
