"""Which process a call ran in. What Ray adds is in tests/integrations/scale_out, with a real Ray."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import socket
import subprocess
import sys
import types

import pytest

from mlguard import PolicyError, guarded
from mlguard.monitor import identity
from mlguard.monitor.identity import tell_identity, worker


def test_process_and_host() -> None:
    """An event says the process and the machine, under the names of OpenTelemetry and ECS."""
    event = {"mlguard.attempts": 1}
    tell_identity(event)
    ours = {name: event[name] for name in ("process.pid", "host.name")}
    assert ours == {"process.pid": os.getpid(), "host.name": socket.gethostname()}
    assert event["mlguard.attempts"] == 1


FORKS = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")  # of libraries' threads


@FORKS
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


@FORKS
def test_who_is_nobodys_worker() -> None:
    """The process that a user starts is no worker; one of a pool says its name, process and host."""
    assert worker() == ""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        said = pool.apply(_words)
        pool.terminate()
        pool.join()
    assert "PoolWorker" in said
    assert said.endswith(f" on {socket.gethostname()}")


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
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


class _Ray(types.ModuleType):
    """The answers of Ray that are asked for, and how often: what a real one can't be made to count."""

    def __init__(self) -> None:
        super().__init__("ray")
        self.actor_id: str | None = None
        self.asked: list[str] = []

    def get_runtime_context(self) -> _Ray:
        return self

    def get_worker_id(self) -> str:
        return "w1"

    def get_job_id(self) -> str:
        self.asked.append("job")
        return "j1"

    def get_node_id(self) -> str:
        return "n1"

    def get_task_id(self) -> str:
        self.asked.append("task")
        return "t1"

    def get_actor_id(self) -> str | None:
        return self.actor_id


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> _Ray:
    module, private = _Ray(), types.ModuleType("ray._private.worker")
    private.global_worker = types.SimpleNamespace(mode=1)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray", module)
    monkeypatch.setitem(sys.modules, "ray._private.worker", private)
    monkeypatch.setattr(identity, "_ray", {})
    return module


def told() -> dict[str, object]:
    event: dict[str, object] = {}
    tell_identity(event)
    return {name: value for name, value in event.items() if name.startswith("ray.")}


def test_a_worker_asks_once_for_what_stays_the_same(ray: _Ray) -> None:
    """Job and node are asked for once; task and actor for each event, as a worker may become an actor's later."""
    expected = {"ray.job_id": "j1", "ray.node_id": "n1", "ray.worker_id": "w1", "ray.task_id": "t1"}
    assert told() == expected
    ray.actor_id = "a1"
    assert told() == {**expected, "ray.actor_id": "a1"}
    assert ray.asked == ["job", "task", "task"]
    assert worker() == f"worker w1 of Ray, process {os.getpid()} on {socket.gethostname()}"


@pytest.mark.parametrize("mode", [0, None], ids=["a driver", "a Ray Client, or not started"])
def test_a_driver_asks_nobody(ray: _Ray, mode: int | None) -> None:
    """It runs no task; and a Ray Client would ask its server over the network at every event."""
    sys.modules["ray._private.worker"].global_worker.mode = mode  # type: ignore[attr-defined]
    assert told() == {}
    assert worker() == ""
    assert ray.asked == []


def test_a_broken_ray_breaks_no_error(ray: _Ray, monkeypatch: pytest.MonkeyPatch) -> None:
    """The words for an error never become another error."""
    monkeypatch.delattr(_Ray, "get_runtime_context")
    assert worker() == ""


def test_a_policy_that_a_worker_does_not_find(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says which worker looked, and what to do; elsewhere it says no more than it did."""
    monkeypatch.setattr(identity, "worker", lambda: "PoolWorker-3, process 7 on node-1")
    lost = guarded("a_policy_of_nobody")(lambda x: x)
    with pytest.raises(PolicyError, match="This is PoolWorker-3, process 7 on node-1, and policies are read where"):
        lost(1)
    monkeypatch.setattr(identity, "worker", lambda: "")
    with pytest.raises(PolicyError) as caught:
        lost(1)
    assert "policies are read where" not in str(caught.value)
