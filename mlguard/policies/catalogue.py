"""The named policies of this process: of packages, code, the policy file and the environment, as one catalogue.

The file, the packages it uses and the environment are read at the first use and kept until a reload, so that every
function of a process sees the same policies. Nothing is read or resolved under the lock: resolving may import exception
classes, and a module that is being imported may itself be waiting to define a policy.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mlguard.errors import PolicyError
from mlguard.forks import in_children
from mlguard.policies.entries import Entry, entry_of_policy
from mlguard.policies.environment import read_environment
from mlguard.policies.files import FILE_VARIABLE, PolicyFile, State, find, places_of, read, state_of
from mlguard.policies.lineage import Entries, Resolved, UnknownParentError, resolve
from mlguard.policies.packages import read_packages
from mlguard.policies.policy import NAME, PRESET, Policy
from mlguard.policies.presets import presets
from mlguard.section import nearest

__all__ = ["Catalogue", "of_this_process"]


@dataclass(frozen=True, slots=True)
class _Sources:
    """Everything known at one moment; replaced as a whole, never changed."""

    code: dict[str, tuple[str, Entry]] = field(default_factory=dict)  # with the policy's fingerprint
    file: dict[str, Entry] | None = None  # None: not read yet
    packages: Mapping[str, Entry] = field(default_factory=dict)
    environment: dict[str, Entry] = field(default_factory=dict)
    searched: tuple[str, ...] = ()
    named: str | os.PathLike[str] | None = None  # the file that `load` was given; None: the one that is found
    files: tuple[Path, ...] = ()
    seen: Mapping[Path, State] = field(default_factory=dict)  # what decides what is read, just before it was read

    def entries(self) -> dict[str, list[Entry]]:
        """Every policy by name; of its sources the later one wins. Variables alone make no policy."""
        entries: dict[str, list[Entry]] = {name: [entry] for name, entry in self.packages.items()}
        for name, (_, entry) in self.code.items():
            entries.setdefault(name, []).append(entry)
        for name, entry in (self.file or {}).items():
            entries.setdefault(name, []).append(entry)
        for name, entry in self.environment.items():
            if name in entries:
                entries[name].append(entry)
        return {**{name: [entry] for name, entry in presets().items()}, **entries}


class Catalogue:
    """Named policies; `of_this_process` is the one everybody uses. Safe to use from several threads."""

    def __init__(self) -> None:
        self.renew_lock()
        self._sources = _Sources()
        self._resolved: dict[str, Resolved] = {}

    def define(self, name: str, policy: Policy, origin: str, *, replacing: bool) -> None:
        """Adds a policy made in code.

        Raises:
            PolicyError: The name is not one, or code defined another policy of that name already.
        """
        if not NAME.fullmatch(name):
            raise PolicyError(f"'{name}' can't be the name of a policy: names are [a-z][a-z0-9_]*, such as 'realtime'.")
        entry, fingerprint = entry_of_policy(name, policy, origin), policy.fingerprint
        with self._lock:
            before = self._sources.code.get(name)
            if before is not None and before[0] != fingerprint and not replacing:
                raise PolicyError(
                    f"policy '{name}' is defined twice, and differently: at {before[1].origin} and at {origin}. "
                    "Fix: give one of them another name, or say define(..., replace=True)."
                )
            dropped = self._change(replace(self._sources, code={**self._sources.code, name: (fingerprint, entry)}))
        del dropped

    @property
    def source(self) -> str:
        """The files that are in force, in words."""
        return " and ".join(str(path) for path in self._sources.files) or "no file"

    def read_first(self) -> None:
        """Reads file and environment, where nobody has yet.

        Raises:
            PolicyError: Something in them is wrong; every problem is listed.
        """
        self._known()

    @property
    def seen(self) -> Mapping[Path, State]:
        """The files whose change would change the policies, there or not, in the state in which they were read."""
        return self._sources.seen

    def own(self) -> dict[str, str]:
        """The policies of the service's own file, each with its place."""
        return {name: entry.origin for name, entry in (self._known().file or {}).items()}

    def candidate(self, path: str | os.PathLike[str] | None, *, start: Path | None = None) -> Catalogue:
        """What this would be if file and environment were read now; nothing changes.

        Args:
            path: The file; None: the one that was named before, or is found.
            start: The folder from which it is searched; None: the working directory.

        Raises:
            PolicyError: Something in them is wrong; every problem is listed.
        """
        candidate = Catalogue()
        candidate._sources = self._read(self._sources.named if path is None else path, start)
        return candidate

    def take_over(self, candidate: Catalogue) -> None:
        """Puts what a candidate read in place of what was read before."""
        with self._lock:
            dropped = self._change(replace(candidate._sources, code=self._sources.code))
        del dropped

    def reset(self) -> None:
        """Forgets everything; the next use reads file and environment again."""
        with self._lock:
            dropped = self._change(_Sources())
        del dropped

    @property
    def state(self) -> Any:
        """All that is known at this moment, for `put_back`."""
        return self._sources

    def put_back(self, state: Any, *, keep: Callable[[str], bool]) -> bool:
        """Makes everything what it was, and says whether that changed anything.

        Args:
            state: What `state` was.
            keep: Asked for each policy that code defined since, with the place of its definition, whether it stays.
        """
        with self._lock:
            code = {
                name: known
                for name, known in self._sources.code.items()
                if name not in state.code and keep(known[1].origin)
            }
            changed = self._sources is not state
            dropped = self._change(replace(state, code={**state.code, **code}) if code else state) if changed else None
        del dropped
        return changed

    def names(self) -> list[str]:
        """Every policy that can be used on a function, presets left out."""
        entries = self._known().entries()
        return sorted(
            name for name, own in entries.items() if PRESET not in name and not any(entry.abstract for entry in own)
        )

    def get(self, name: str) -> Resolved:
        """The policy of that name, with where its values come from.

        Raises:
            PolicyError: There is none, or it can't be resolved.
        """
        resolved = self._resolved.get(name)
        if resolved is not None:
            return resolved
        sources = self._known()
        entries = sources.entries()
        if name not in entries:
            raise PolicyError(_unknown(name, entries, sources))
        resolved = resolve(name, entries)
        with self._lock:
            if self._sources is sources:
                self._resolved[name] = resolved
        return resolved

    def check(self) -> None:
        """Refuses what only shows when everything is there: unknown parents, variables for no policy."""
        sources = self._known()
        entries = sources.entries()
        problems = _unresolvable(entries, unknown_parents=True)
        for name, entry in sources.environment.items():
            if name not in entries:
                for written in entry.sections.values():
                    problems.append(f"{written.origin}: there is no policy '{name}'.{nearest(name, entries)}")
        _refuse(problems)

    def _known(self) -> _Sources:
        """What is known, read first where nothing was read yet."""
        sources = self._sources
        while sources.file is None:
            read = self._read(None)
            dropped: object = None
            with self._lock:
                if self._sources.file is None:
                    dropped = self._change(replace(read, code=self._sources.code))
                sources = self._sources
            del dropped
        return sources

    def _read(self, path: str | os.PathLike[str] | None, start: Path | None = None) -> _Sources:
        environ = dict(os.environ)
        file, searched = find(environ, start) if path is None else (Path(path).expanduser().absolute(), [str(path)])
        seen = {each: state_of(each) for each in places_of(file, searched)}
        problems: list[str] = []
        variables = read_environment(environ, problems)
        own = PolicyFile({}, {}) if file is None else read(file, problems)

        def read_package(path: Path, label: str, problems: list[str]) -> Mapping[str, Entry]:
            seen[path] = state_of(path)
            return read(path, problems, label=label).entries

        used = read_packages(own.use, read_package, problems)
        sources = replace(
            self._sources,
            file=own.entries,
            packages=used.entries,
            environment=variables,
            searched=tuple(searched),
            named=path,
            files=(*(() if file is None else (file,)), *used.files),
            seen=seen,
        )
        if not problems:
            problems = _unresolvable(sources.entries(), unknown_parents=False)
        _refuse(problems)
        return sources

    def _change(self, sources: _Sources) -> object:
        """Puts new sources in place. Returns the old, to be dropped outside the lock: values have destructors."""
        before = self._sources, self._resolved
        self._sources, self._resolved = sources, {}
        return before

    def renew_lock(self) -> None:
        """For the child of a fork: a thread that is not there any more may have held the lock."""
        self._lock = threading.Lock()


def _unresolvable(entries: Entries, *, unknown_parents: bool) -> list[str]:
    """What is wrong with the policies once everything they inherit is put together."""
    problems: dict[str, None] = {}
    for name in entries:
        try:
            resolve(name, entries)
        except UnknownParentError as error:
            if unknown_parents:
                problems[str(error)] = None
        except PolicyError as error:
            problems[str(error)] = None
    return list(problems)


def _refuse(problems: list[str]) -> None:
    if len(problems) == 1:
        raise PolicyError(problems[0])
    if problems:
        raise PolicyError("\n  ".join([f"{len(problems)} problems in the policies:", *problems]))


def _unknown(name: str, entries: Entries, sources: _Sources) -> str:
    bare = [known for known in entries if PRESET not in known]
    hint = nearest(name, bare if PRESET not in name else entries)
    if PRESET + name in entries:
        hint = f" The preset of that name is '{PRESET}{name}'."
    if name in sources.environment:
        hint += " The environment has settings for it, but variables alone make no policy."
    file = "; ".join(sources.searched)
    return (
        f"there is no policy named '{name}'.{hint} Known: {', '.join(sorted(bare)) or 'none'}; "
        f"presets: {', '.join(sorted(known for known in entries if PRESET in known))}. "
        f"Searched: policies.define() in code; mlguard.toml, mlguard.yaml, [tool.mlguard] in pyproject.toml in: {file}."
        f" Fix: correct the name, define the policy, or set {FILE_VARIABLE} to its file."
    )


of_this_process = Catalogue()
in_children(of_this_process.renew_lock)
