"""What `import mlguard` leaves for later, and that later works; each in a fresh process."""

from __future__ import annotations

import subprocess
import sys


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_importing_leaves_for_later_what_not_every_program_needs() -> None:
    """No schema is built, no plugin of pydantic searched for, and nothing that reads policy files is loaded."""
    loaded = run(
        "import sys, mlguard\n"
        "built = [c for c in mlguard.Policy.__mro__[1].__subclasses__() if c.__pydantic_complete__]\n"
        "late = {'importlib.metadata', 'importlib.resources', 'tomllib', 'email.utils', 'mlguard.policies.catalogue'}\n"
        "print(built, sorted(late & set(sys.modules)))"
    )
    assert loaded == "[] []"


def test_threads_may_race_for_the_first_use_of_a_section() -> None:
    """A schema that is built late is right for every thread that asked for it at once."""
    code = (
        "import sys, threading, mlguard\n"
        "sys.setswitchinterval(1e-6)\n"
        "start, made = threading.Barrier(8), []\n"
        "def make():\n"
        "    start.wait()\n"
        "    p = mlguard.Policy(retry={'max_retries': 2}, timeout={'total': '2s'}, memory=True)\n"
        "    made.append((p.retry.max_retries, p.timeout.total, p.memory.max_wait, p.fingerprint))\n"
        "threads = [threading.Thread(target=make) for _ in range(8)]\n"
        "[thread.start() for thread in threads]\n"
        "[thread.join() for thread in threads]\n"
        "print(len(made), len(set(made)), made[0][:3])"
    )
    assert run(code) == "8 1 (2, 2.0, 5.0)"
