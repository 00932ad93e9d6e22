"""A policy package, built as a wheel and installed in two environments, and two services that use it."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"


@pytest.fixture(scope="module")
def environments(tmp_path_factory):
    """Two virtual environments with the package installed from its wheel, and mlguard from this repository."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("environments")
    wheels = folder / "wheels"
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels), cwd=EXAMPLES / "policy_package")
    (wheel,) = wheels.glob("acme_policies-1.0-*.whl")
    made = {}
    for name in ("scoring", "ranking"):
        home = folder / name
        run(sys.executable, "-m", "venv", "--without-pip", str(home))
        python = home / "bin" / "python"
        site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
        (site / "outer.pth").write_text(f"{sysconfig.get_path('purelib')}\n{ROOT}\n")
        run(sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--quiet", str(wheel))
        made[name] = python
    return made


def run(*command, cwd=None, env=None):
    clean = {key: value for key, value in os.environ.items() if not key.startswith("MLGUARD")}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**clean, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_each_service_has_the_platforms_policies_with_its_own_changes(environments):
    """One service takes a policy as it is, the other extends it; each value names package, version, file and line."""
    said = run(environments["ranking"], "service.py", cwd=EXAMPLES / "ranking")
    assert "[3.0, 2.0, 1.0]" in said
    assert "acme-policies 1.0, mlguard.toml:4" in said
    assert f"{EXAMPLES}/ranking/mlguard.toml:5" in said
    assert "breaker = false" in said


def test_an_operator_overrides_one_value_by_environment(environments):
    """The variable wins over the package, and explain says so."""
    said = run(
        environments["scoring"],
        "-c",
        "from mlguard import policies; print(policies.explain('realtime'))",
        cwd=EXAMPLES / "scoring",
        env={"MLGUARD__REALTIME__CONCURRENCY__MAX_CONCURRENT": "3"},
    )
    (line,) = (line for line in said.splitlines() if "concurrency.max_concurrent" in line)
    assert line.split() == [
        "concurrency.max_concurrent", "=", "3", "variable", "MLGUARD__REALTIME__CONCURRENCY__MAX_CONCURRENT",
    ]  # fmt: skip


def test_a_reload_under_load_fails_no_call(environments, tmp_path):
    """The service answers every line while its file changes under it, and ends up with what the file says."""
    for name in ("service.py", "mlguard.toml"):
        (tmp_path / name).write_text((EXAMPLES / "scoring" / name).read_text())
    service = subprocess.Popen(
        [environments["scoring"], "service.py"],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert service.stdin is not None
    assert service.stdout is not None

    def ask(line: object) -> str:
        service.stdin.write(f"{line}\n")  # type: ignore[union-attr]
        service.stdin.flush()  # type: ignore[union-attr]
        return service.stdout.readline().strip()  # type: ignore[union-attr]

    try:
        assert ask("limit") == "8"
        use = (tmp_path / "mlguard.toml").read_text()
        for limit in (9, 10, 11):
            (tmp_path / "mlguard.toml").write_text(
                f"{use}[policies.realtime]\nconcurrency = {{ max_concurrent = {limit} }}\n"
            )
            for number in range(100_000):
                assert ask(number) == str(2.0 * number)
                if number % 50 == 0 and ask("limit") == str(limit):
                    break
        assert ask("limit") == "11"
        said = service.communicate(timeout=10)[1]
    finally:
        service.kill()
        service.wait()
    assert service.returncode == 0, said
