"""Guarded functions on a real Ray: tasks, actors, Ray Data; policies, errors, events, memory, cache across workers.

`test_ray.py` runs these in a process of their own. One of them by itself: `pytest ray_cases.py -k NAME`.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import psutil
import pytest
from pydantic import BaseModel, Field

import mlguard
from mlguard import (
    Array,
    Breaker,
    Cache,
    Concurrency,
    InvalidInputError,
    Memory,
    MemoryPressureError,
    Monitor,
    PolicyError,
    Retry,
    Rows,
    Timeout,
    errors,
    guarded,
    memory,
    policies,
    testing,
)
from mlguard.monitor.identity import tell_identity

ray = pytest.importorskip("ray", reason="ray is not installed")

Features = Annotated[npt.NDArray[np.float64], Array("batch", 3, ge=0)]
Scores = Annotated[npt.NDArray[np.float64], Array("batch")]

pytestmark = [
    pytest.mark.usefixtures("ray_cluster"),
    # Ray's processes and sockets belong to the cluster of the session and are closed with it, not by the collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning:ray"),
]

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples" / "ray_scoring"
GOOD, BAD = np.ones((2, 3)), np.full((2, 3), np.nan)


class TestWhereCodeRuns:
    def test_a_task(self) -> None:
        """A guarded function is a task as it is, sent by value, with every concern at work on the worker."""

        @guarded(retry=Retry(), cache=Cache(ttl="1m"), memory=Memory(), monitor=Monitor(log=False), breaker=True)
        def predict(features: Features) -> Scores:
            return features.sum(axis=1)

        task = ray.remote(predict)
        assert ray.get(task.remote(GOOD)).tolist() == [3.0, 3.0]
        with pytest.raises(InvalidInputError, match="6 of 6 values are NaN"):
            ray.get(task.remote(BAD))

    def test_a_guarded_function_that_a_task_calls(self) -> None:
        """One that was called on the driver before keeps its policy, and has counts of its own on the worker."""

        @guarded(cache=Cache(ttl="1m"), monitor=Monitor(log=False))
        def predict(features: Features) -> Scores:
            return features.sum(axis=1)

        predict(GOOD)

        @ray.remote
        def task() -> Any:
            predict(GOOD)
            return predict.guard.stats()["monitor"]["calls"], os.getpid()

        calls, pid = ray.get(task.remote())
        assert (calls, pid != os.getpid()) == ({"executed": 1}, True)

    def test_every_concern_at_once(self, tmp_path: Path) -> None:
        """A policy of all sections goes to the workers before it was bound here, and after; the handle works there."""

        @guarded(
            retry=Retry(on_result=lambda result: False),
            timeout=Timeout(total="60s", attempt="30s", sync_mode="thread"),
            breaker=Breaker(scope="model"),
            concurrency=Concurrency(max_concurrent=2, per="size"),
            memory=Memory(need="learned", split=True),
            cache=Cache(ttl="1m", rows=True, store=f"sqlite:///{tmp_path}/cache.db"),
            monitor=Monitor(log="background", record=str(tmp_path / "record"), spans=True, slow_call="1h"),
            fallback=lambda features, size: np.zeros(len(features)),
            model_version="1",
        )
        def predict(features: Features, size: int = 1) -> Scores:
            return features.sum(axis=1) * size

        def elsewhere() -> Any:
            outcome = predict.guard.call(GOOD)
            return outcome.value, sorted(predict.guard.stats()), predict.guard.explain(), predict.guard.source

        for _ in range(2):
            value, *_ = found = ray.get(ray.remote(elsewhere).remote())
            assert value.tolist() == [3.0, 3.0]
            assert predict(GOOD).tolist() == [3.0, 3.0]
        stats, explained, source = found[1:]
        assert stats == sorted(predict.guard.stats())
        assert source == predict.guard.source
        assert explained.splitlines()[0] == predict.guard.explain().splitlines()[0]

    def test_models_go_in_and_come_out(self) -> None:
        """Classes that only the driver's code knows are the same classes again when they come back."""

        class Patient(BaseModel):
            age: Annotated[float, Field(ge=0)]

        class Risk(BaseModel):
            value: float

        @guarded(memory=Memory())
        def risk(patient: Patient) -> Risk:
            return Risk(value=patient.age / 100)

        task = ray.remote(risk)
        found = ray.get(task.remote(Patient(age=30)))
        assert (type(found), found.value) == (Risk, 0.3)
        assert ray.get(task.remote({"age": 40})).value == 0.4
        with pytest.raises(InvalidInputError, match=r"patient\.age"):
            ray.get(task.remote({"age": -1}))

    def test_an_array_in_the_object_store(self) -> None:
        """Arrays that workers read from shared memory, which nobody may write to, pass their schema as they are."""

        @guarded
        def predict(features: Features) -> tuple[float, bool]:
            return float(features.sum()), features.flags.writeable

        assert ray.get(ray.remote(predict).remote(ray.put(np.ones((50_000, 3))))) == (150_000.0, False)

    def test_an_actor(self) -> None:
        """Methods of every kind work in an actor: plain, class, static, coroutine, generator."""

        @ray.remote
        class Model:
            scale = 2.0

            @guarded(memory=Memory(), concurrency=Concurrency(max_concurrent=1))
            def predict(self, features: Features) -> float:
                return float(features.sum()) * self.scale

            @guarded
            async def predict_async(self, features: Features) -> float:
                return float(features.sum())

            @guarded(concurrency=Concurrency(max_concurrent=1))
            def tokens(self, count: int) -> Any:
                for number in range(count):  # noqa: UP028 - Ray sends something into it, which a range refuses
                    yield number

            @classmethod
            @guarded
            def scaled(cls, by: float) -> float:
                return cls.scale * by

            @staticmethod
            @guarded
            def doubled(x: float) -> float:
                return 2 * x

            def slots_in_use(self) -> int:
                return type(self).tokens.guard.stats()["concurrency"]["in_use"]

        model = Model.remote()
        assert ray.get(model.predict.remote(GOOD)) == 12.0
        assert ray.get(model.predict_async.remote(GOOD)) == 6.0
        assert [ray.get(item) for item in model.tokens.remote(3)] == [0, 1, 2]
        assert ray.get(model.slots_in_use.remote()) == 0
        assert ray.get([model.scaled.remote(3.0), model.doubled.remote(3.0)]) == [6.0, 6.0]
        for method in (model.predict, model.predict_async):
            with pytest.raises(InvalidInputError, match="NaN"):
                ray.get(method.remote(BAD))
        with pytest.raises(InvalidInputError, match="count"):
            [ray.get(item) for item in model.tokens.remote("many")]

    @pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data")  # of settings that Ray Data makes itself
    def test_map_batches(self) -> None:
        """Ray Data calls a guarded function, and a class whose `__call__` is guarded, on every batch."""
        import pyarrow as pa
        import pyarrow.compute
        import ray.data

        ray.data.DataContext.get_current().enable_progress_bars = False

        class Row(BaseModel):
            id: Annotated[int, Field(ge=0, lt=40)]

        @guarded(memory=Memory())
        def doubled(batch: Annotated[pa.Table, Rows(Row, max_rows=10)]) -> pa.Table:
            return batch.append_column("twice", pa.compute.multiply(batch["id"], 2))

        class Model:
            def __init__(self) -> None:
                self.weights = np.full(1, 3.0)  # an artifact, loaded once an actor

            @guarded(memory=Memory())
            def __call__(self, batch: dict[str, npt.NDArray[np.int64]]) -> dict[str, Any]:
                return {**batch, "score": batch["id"] * self.weights}

        rows = (
            ray.data.range(40, override_num_blocks=1)
            .map_batches(doubled, batch_size=10, batch_format="pyarrow")
            .map_batches(Model, batch_size=10, concurrency=1)
            .take_all()
        )
        assert sorted((row["id"], row["twice"], row["score"]) for row in rows) == [
            (n, 2 * n, 3.0 * n) for n in range(40)
        ]


def test_a_script_and_its_module(ray_cluster: Any, tmp_path: Path) -> None:
    """Functions of `__main__` and of a module, a policy file and a policy package, as `working_dir` ships them."""
    (tmp_path / "mlguard.toml").write_text(
        'use = "acme_policies"\n[policies.scoring]\nextends = "platform"\nretry = { max_retries = 2 }\n'
    )
    package, about = tmp_path / "acme_policies", tmp_path / "acme_policies-1.0.dist-info"  # as `pip install --target .`
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "mlguard.toml").write_text('[policies.platform]\ntimeout = { total = "9s" }\n')
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-policies\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[mlguard.policies]\nacme_policies = acme_policies\n")
    (tmp_path / "service.py").write_text(
        textwrap.dedent(
            """
            from mlguard import guarded

            @guarded("scoring")
            def doubled(x: float) -> float:
                return 2 * x
            """
        )
    )
    (tmp_path / "script.py").write_text(
        textwrap.dedent(
            """
            import json
            import ray, service
            from mlguard import InvalidInputError, guarded

            @guarded("scoring")
            def tripled(x: float) -> float:
                return 3 * x

            def policies_in_force():
                tripled(1.0), service.doubled(1.0)
                functions = tripled, service.doubled
                origins = [function.guard.origins for function in functions]
                return [each[name] for each in origins for name in ("retry.max_retries", "timeout.total")]

            ray.init(runtime_env={"working_dir": ".", "env_vars": {"MLGUARD__SCORING__RETRY__MAX_RETRIES": "6"}})
            said = [ray.get(ray.remote(function).remote(2.0)) for function in (tripled, service.doubled)]
            said += ray.get(ray.remote(policies_in_force).remote())
            for function in (tripled, service.doubled):
                try:
                    ray.get(ray.remote(function).remote("many"))
                except InvalidInputError as error:
                    said.append(error.errors()[0]["loc"])
            with open("said.json", "w") as out:
                json.dump(said, out)
            """
        )
    )
    environment = {**os.environ, "RAY_ADDRESS": ray_cluster.address}
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    variable = "variable MLGUARD__SCORING__RETRY__MAX_RETRIES"
    origins = [variable, "acme-policies 1.0, mlguard.toml:2"]
    assert json.loads((tmp_path / "said.json").read_text()) == [6.0, 4.0, *origins, *origins, ["x"], ["x"]]


def test_the_example(ray_cluster: Any, tmp_path: Path) -> None:
    """docs/examples/ray_scoring/tasks.py says what the page says, and its hook sets up the workers' logging."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / "tasks.py"],
        cwd=tmp_path,
        env={**os.environ, "RAY_ADDRESS": ray_cluster.address},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "[6.0, 12.0]" in done.stdout
    assert "must be >= 0: 1 of 3 values are NaN, the first at [0, 1]" in done.stdout
    logs = Path(ray_cluster.home, "session_latest", "logs")
    lines = [line for file in logs.glob("worker-*.out") for line in file.read_text().splitlines()]
    events = [json.loads(line) for line in lines if line.startswith('{"mlguard.schema_version"')]
    assert [event["mlguard.disposition"] for event in events] == ["executed", "rejected_validation"]
    assert len({event["ray.task_id"] for event in events}) == 2


class TestErrors:
    """What a worker's guard raised is caught on the driver by its class, with its figures."""

    FIGURES = ("retry_after", "permanent", "used", "limit", "need", "source", "started")

    @pytest.mark.parametrize(
        "error",
        [
            errors.InvalidInputError.of("f()", [{"type": "x", "loc": ("a", 0), "msg": "must be {odd}"}]),
            errors.InvalidOutputError.of("f()", [{"type": "x", "loc": (), "msg": "bad"}]),
            errors.MemoryPressureError("tight", used=9, limit=10, need=2, source="host", retry_after=4.5),
            errors.CircuitOpenError("open", retry_after=3.0),
            errors.ConcurrencyLimitError("full", retry_after=0.5, permanent=True),
            errors.DeadlineExceededError("late"),
            errors.PolicyError("no"),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_every_error(self, error: errors.GuardError) -> None:
        """Also where the task that failed was another task's."""
        if isinstance(error, errors.DeadlineExceededError):
            error.started = False

        def failing() -> None:
            raise error

        def outer() -> None:
            ray.get(ray.remote(failing).remote())

        for function in (failing, outer):
            with pytest.raises(type(error)) as caught:
                ray.get(ray.remote(function).remote())
            found = caught.value
            for name in self.FIGURES:
                assert getattr(found, name, None) == getattr(error, name, None), name
            assert isinstance(found, ray.exceptions.RayTaskError)
            assert str(error).splitlines()[0] in str(found)
            if isinstance(error, errors.InvalidInputError | errors.InvalidOutputError):
                assert found.errors() == error.errors()

    def test_ray_tries_a_refusal_again(self, tmp_path: Path) -> None:
        """`retry_exceptions` of Ray takes mlguard's classes: a refused call runs elsewhere, or later."""
        tries = tmp_path / "tries"

        def need() -> int:
            with tries.open("a") as file:
                file.write("x")
            return 0 if len(tries.read_text()) > 2 else 1 << 50  # what no machine has, until the third time

        @guarded(memory=Memory(max_wait=0), need=need)
        def predict() -> str:
            return tries.read_text()

        task = ray.remote(max_retries=3, retry_exceptions=[errors.RejectedError])(predict)
        assert ray.get(task.remote()) == "xxx"

    def test_a_guard_around_a_task(self, tmp_path: Path) -> None:
        """On the driver, a guard around `ray.get` knows a worker's lost connection as one, and retries it."""
        tries = tmp_path / "tries"

        @ray.remote(max_retries=0)
        def task() -> str:
            with tries.open("a") as file:
                file.write("x")
            if len(tries.read_text()) < 3:
                raise ConnectionResetError("reset by peer")
            return "answered"

        @guarded(retry=Retry(initial_delay="1ms"), monitor=Monitor(log=False))
        def ask() -> str:
            return ray.get(task.remote())

        outcome = ask.guard.call()
        assert (outcome.value, outcome.attempts) == ("answered", 3)

    def test_a_guard_around_an_actor_that_starts_again(self) -> None:
        """kill -9 on an actor: while Ray starts it again it is unavailable, which a retry on the driver outlasts."""

        @ray.remote(max_restarts=1)
        class Model:
            def pid(self) -> int:
                return os.getpid()

        model = Model.remote()

        patient = Retry(
            max_retries=100, initial_delay="200ms", max_delay="2s", budget=None
        )  # a busy machine takes long

        @guarded(retry=patient, monitor=Monitor(log=False))
        def ask() -> int:
            return ray.get(model.pid.remote())

        before = ask()
        os.kill(before, signal.SIGKILL)
        assert ask() != before

    def test_a_task_that_is_cancelled(self, tmp_path: Path) -> None:
        """`ray.cancel` passes through the guard: no failure, no retry, no fallback, and the slot comes back."""

        @ray.remote
        class Model:
            @guarded(
                concurrency=Concurrency(max_concurrent=1), retry=Retry(), fallback=-1.0, monitor=Monitor(log=False)
            )
            async def predict(self, began: str) -> float:
                Path(began).touch()
                await asyncio.sleep(600)
                return 1.0

            async def found(self) -> Any:
                stats = type(self).predict.guard.stats()
                return stats["monitor"]["calls"], stats["concurrency"]["in_use"], stats["retry"]["retries"]

        model = Model.remote()
        began = tmp_path / "began"
        running = model.predict.remote(str(began))
        while not began.exists():
            time.sleep(0.01)
        ray.cancel(running)
        with pytest.raises(ray.exceptions.TaskCancelledError):
            ray.get(running)
        assert ray.get(model.found.remote()) == ({"cancelled": 1}, 0, 0)


class TestPolicies:
    def test_a_file_that_the_workers_are_told_of(self, tmp_path: Any) -> None:
        """MLGUARD_POLICIES and MLGUARD__ variables in `runtime_env` reach the worker, which reads them itself."""
        file = tmp_path / "platform.toml"
        file.write_text("[policies.scoring]\nretry = { max_retries = 3 }\ntimeout = { total = '9s' }\n")

        @guarded("scoring")
        def predict(x: float) -> float:
            return x

        def policy_in_force() -> Any:
            predict(1.0)
            return predict.guard.policy.retry.max_retries, predict.guard.origins

        variables = {"MLGUARD_POLICIES": str(file), "MLGUARD__SCORING__RETRY__MAX_RETRIES": "5"}
        task = ray.remote(policy_in_force).options(runtime_env={"env_vars": variables})
        retries, origins = ray.get(task.remote())
        assert retries == 5
        assert origins["timeout.total"] == f"{file}:3"
        assert origins["retry.max_retries"] == "variable MLGUARD__SCORING__RETRY__MAX_RETRIES"

    def test_a_policy_that_is_not_there(self) -> None:
        """The error names the worker, its process and its machine, where it looked, and what to do."""

        @guarded("scoring")
        def predict(x: float) -> float:
            return x

        with pytest.raises(PolicyError, match="there is no policy named 'scoring'") as caught:
            ray.get(ray.remote(predict).remote(1.0))
        said = str(caught.value)
        pid = re.search(r"\(pid=(\d+)", said)[1]  # as Ray itself says it
        assert f" of Ray, process {pid} on {socket.gethostname()}, " in said
        assert "Fix: hand it the file as well, by MLGUARD_POLICIES" in said

    def test_a_policy_goes_along_with_a_bound_function(self) -> None:
        """What code defined on the driver: once the function is bound there, its policy travels with it."""
        policies.reset()
        policies.define("notebook", mlguard.Policy(retry=Retry(max_retries=7)))

        @guarded("notebook")
        def predict(x: float) -> float:
            return x

        def retries() -> int:
            return predict.guard.policy.retry.max_retries

        with pytest.raises(PolicyError):
            ray.get(ray.remote(retries).remote())
        predict.guard.explain()
        assert ray.get(ray.remote(retries).remote()) == 7
        policies.reset()


class TestEvents:
    def test_who_ran_the_call(self) -> None:
        """An event of a worker says its process, its machine, and Ray's ids of job, node, worker and task or actor."""

        @guarded(monitor=Monitor())
        def predict(x: float) -> float:
            return x

        def events() -> Any:
            with testing.capture_events() as events:
                predict(1.0)
            context = ray.get_runtime_context()
            return events[0], context.get_task_id(), context.get_worker_id(), os.getpid()

        @ray.remote
        class Actor:
            def run(self) -> Any:
                return events(), ray.get_runtime_context().get_actor_id()

        event, task, worker, pid = ray.get(ray.remote(events).remote())
        assert (event["process.pid"], event["host.name"]) == (pid, socket.gethostname())
        assert (event["ray.task_id"], event["ray.worker_id"]) == (task, worker)
        assert event["ray.job_id"] == ray.get_runtime_context().get_job_id()
        assert event["ray.node_id"] == ray.get_runtime_context().get_node_id()
        assert "ray.actor_id" not in event
        actor = Actor.remote()
        ((first, *_), id_of_actor), ((second, *_), _) = ray.get([actor.run.remote(), actor.run.remote()])
        assert first["ray.actor_id"] == second["ray.actor_id"] == id_of_actor
        assert first["ray.task_id"] != second["ray.task_id"]

    def test_the_driver_runs_no_task(self) -> None:
        """An event of the driver has none of Ray's ids, and Ray is not asked for a task, which it would warn of."""
        event: dict[str, Any] = {}
        tell_identity(event)
        assert sorted(event) == ["host.name", "process.pid"]


class TestAcrossWorkers:
    def test_promises_count_in_the_whole_container(self) -> None:
        """What one worker's call was promised, another's can't have, until the call ends or the worker is killed."""
        reading = memory.read()
        need = int(0.6 * (0.95 * reading.limit - reading.used))

        @ray.remote(max_restarts=0)
        class Worker:
            @guarded(memory=Memory(threshold=0.95, max_wait=0, need=need))
            def hold(self) -> Any:
                yield os.getpid()
                yield "done"

            @guarded(memory=Memory(threshold=0.95, max_wait=0, need=need))
            def predict(self) -> int:
                return os.getpid()

            @guarded(memory=Memory(threshold=0.95, max_wait=20, need=need))
            def predict_later(self) -> int:
                return os.getpid()

            def begin(self) -> int:
                self.held = self.hold()
                return next(self.held)

            def end(self) -> None:
                self.held.close()

        one, other = Worker.remote(), Worker.remote()
        holder = ray.get(one.begin.remote())
        with pytest.raises(MemoryPressureError) as caught:
            ray.get(other.predict.remote())
        assert (caught.value.need, caught.value.permanent) == (need, False)
        ray.get(one.end.remote())
        assert ray.get(other.predict.remote()) != holder

        ray.get(one.begin.remote())
        waiting = other.predict_later.remote()
        assert ray.wait([waiting], timeout=0.3) == ([], [waiting])
        os.kill(holder, signal.SIGKILL)
        assert ray.get(waiting, timeout=20) != holder

    def test_one_cache_for_all(self, redis_url: str) -> None:
        """What one worker computed, the others, and the driver, have from Redis."""

        @guarded(cache=Cache(ttl="1m", store=redis_url), model_version="1")
        def embed(text: str) -> int:
            return os.getpid()

        def embedded() -> tuple[int, int]:
            return embed("a text"), os.getpid()

        @ray.remote
        class Embedder:  # an actor has a process of its own
            def embedded(self) -> tuple[int, int]:
                return embedded()

        first, pid = ray.get(Embedder.remote().embedded.remote())
        second, other = ray.get(ray.remote(embedded).remote())
        assert (first, second) == (pid, pid)
        assert other != pid
        assert embed("a text") == pid

    def test_nobody_outside_is_asked(self) -> None:
        """Ray's processes hold connections within this machine only: no usage report, no metadata service."""
        here = {address.address for found in psutil.net_if_addrs().values() for address in found}
        family = psutil.Process().children(recursive=True)
        assert len(family) >= 3
        peers = set()
        for process in family:
            try:
                peers |= {
                    each.raddr.ip.removeprefix("::ffff:") for each in process.net_connections("inet") if each.raddr
                }
            except psutil.NoSuchProcess:
                continue
        assert peers
        assert peers <= here
