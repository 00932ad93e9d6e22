"""Which process a call ran in. What Ray adds is in tests/integrations/scale_out, with a real Ray."""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
import types

import pytest

from mlguard.monitor.identity import tell_identity, worker


def test_process_and_host() -> None:
    """An event says the process and the machine, under the names of OpenTelemetry and ECS."""
    event = {"mlguard.attempts": 1}
    tell_identity(event)
    ours = {name: event[name] for name in ("process.pid", "host.name")}
    assert ours == {"process.pid": os.getpid(), "host.name": socket.gethostname()}
    assert event["mlguard.attempts"] == 1


def test_a_forked_child_is_another_process() -> None:
    """What a parent knew of itself is not said by its child."""
    tell_identity({})
    read, write = os.pipe()
    child = os.fork()
    if not child:
        event: dict[str, object] = {}
        tell_identity(event)
        os.write(write, str(event["process.pid"]).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 20).decode() == str(child)
    os.close(read)
    os.close(write)


def _words() -> str:
    return worker()


def test_who_is_nobodys_worker() -> None:
    """The process that a user starts is no worker; one of a pool says its name, process and host."""
    assert worker() == ""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        said = pool.apply(_words)
        pool.terminate()
        pool.join()
    assert "PoolWorker" in said
    assert said.endswith(f" on {socket.gethostname()}")


def test_a_ray_that_is_only_imported_is_left_alone() -> None:
    """Asking Ray for its ids would start a cluster, so it is asked only where it runs."""
    script = (
        "import sys, ray\n"
        "from mlguard.monitor.identity import tell_identity, worker\n"
        "event = {}\n"
        "tell_identity(event)\n"
        "print(sorted(event), repr(worker()), ray.is_initialized())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "['host.name', 'process.pid'] '' False\n"


def test_a_broken_ray_breaks_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The words for an error never become another error."""
    monkeypatch.setitem(sys.modules, "ray", types.ModuleType("ray"))
    assert worker() == ""
