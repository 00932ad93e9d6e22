"""Prometheus with several processes: a scrape is the sum of all, and no kill, fork or full disk spoils it."""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("prometheus_client", reason="the extra 'prometheus' is not installed")

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.values import MultiProcessValue

from mlguard import Breaker, Monitor, PolicyError, guarded
from mlguard.monitor import readings
from mlguard.sinks import prometheus, prometheus_dead, prometheus_files

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

PROLOGUE = """
import os, signal, sys, time
from prometheus_client import Counter, Gauge
from prometheus_client.parser import text_string_to_metric_families as parse
from mlguard import Breaker, Monitor, guarded
from mlguard.errors import PolicyError
from mlguard.sinks import prometheus, prometheus_files

prometheus_files.EVERY = 0.1
own = Counter("own", "The application's own.")

@guarded(monitor=Monitor(log=False), breaker=Breaker())
def f(x: int) -> int:
    return x

def scrape(name="mlguard_calls_total", **labels):
    text, _ = prometheus.exposition()
    labels = labels or ({"disposition": "executed"} if "calls" in name else {})
    found = [s.value for family in parse(text.decode()) for s in family.samples
             if s.name == name and labels.items() <= s.labels.items()]
    return sum(found)

def forked(run):
    pid = os.fork()
    if not pid:
        try:
            run()
        finally:
            os._exit(7)
    return pid

def until(condition):
    for _ in range(6000):
        if condition():
            return True
        time.sleep(0.01)
    return False

def files():
    return sorted(os.listdir(os.environ["PROMETHEUS_MULTIPROC_DIR"]))

def of(pid):
    return [name for name in files() if name.endswith(f"_{pid}.db")]
"""


NURSERY = """
import json, traceback

for line in sys.stdin:
    asked = json.loads(line)
    child = os.fork()
    if not child:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = asked["folder"]
        said = os.open(asked["said"], os.O_CREAT | os.O_WRONLY)
        os.dup2(said, 1), os.dup2(said, 2)
        try:
            exec(asked["program"], globals())
        except BaseException:
            traceback.print_exc()
            sys.exit(1)
        sys.exit(0)  # as a program ends, and not os._exit
    print(os.waitpid(child, 0)[1], flush=True)
"""


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    """Has everything imported, and forks a process for each program: starting one anew would take a second."""
    folder = tmp_path_factory.mktemp("nursery")
    process = subprocess.Popen(
        [sys.executable, "-c", PROLOGUE + NURSERY],
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)},
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process
    process.communicate(timeout=60)


@pytest.fixture
def run(tmp_path: Path, nursery: subprocess.Popen[str]) -> Callable[..., str]:
    """Runs a program with a folder for its files; what it prints."""

    def run(program: str, folder: Path | None = None) -> str:
        if folder is None:
            folder = tmp_path / "metrics"
            folder.mkdir(exist_ok=True)
        said = tmp_path / "said.txt"
        said.unlink(missing_ok=True)
        asked = {"program": textwrap.dedent(program), "folder": str(folder), "said": str(said)}
        assert nursery.stdin is not None
        assert nursery.stdout is not None
        nursery.stdin.write(json.dumps(asked) + "\n")
        nursery.stdin.flush()
        status = nursery.stdout.readline()
        assert status == "0\n", said.read_text()
        return said.read_text()

    return run


def test_processes_add_up(run) -> None:
    """Forked children count their own calls; what killed ones counted stays in the sum, their gauges go."""
    said = run("""
        prometheus.register()
        prometheus.register()
        f(1); own.inc()
        assert scrape() == 1

        def work():
            for x in range(10): f(x)
            own.inc(5)
            time.sleep(60)

        children = [forked(work) for _ in range(3)]
        assert until(lambda: scrape() == 31), scrape()
        assert until(lambda: scrape("own_total") == 16)
        assert scrape("mlguard_breaker_state", state="closed") == 4
        assert scrape("mlguard_call_duration_seconds_count", disposition="executed") == 31
        for child in children[:2]:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        assert scrape() == 31
        assert scrape("mlguard_breaker_state", state="closed") == 2
        assert scrape("own_total") == 16
        os.kill(children[2], signal.SIGKILL)
        print("done")
    """)
    assert said == "done\n"


def test_what_ends_in_order_loses_nothing(run, tmp_path) -> None:
    """A process writes once more when the interpreter ends."""
    run("prometheus.register(); f(1); f(2)")
    assert run("prometheus.register(); print(scrape())") == "2.0\n"


def test_flush(run) -> None:
    """A server that ends its workers by a signal, as uvicorn does, loses nothing where it is called before."""
    said = run("""
        prometheus_files.EVERY = prometheus_files.OFTEN = 60.0
        prometheus.register()

        def work():
            for x in range(7): f(x)
            prometheus.flush()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTERM)

        print(os.waitpid(forked(work), 0)[1] == signal.SIGTERM, scrape())
    """)
    assert said == "True 7.0\n"


def test_the_end_of_a_lifespan(run) -> None:
    """An application with install(metrics=...) writes at its end, so that restarts under uvicorn lose nothing."""
    pytest.importorskip("fastapi", reason="the extra 'fastapi' is not installed")
    said = run("""
        import asyncio
        from fastapi import FastAPI
        from mlguard.integrations.fastapi import install
        prometheus_files.EVERY = prometheus_files.OFTEN = 60.0

        def work():
            app = FastAPI()
            install(app, metrics="/metrics")
            steps = iter(["startup", "shutdown"])

            async def receive():
                f(1)
                return {"type": f"lifespan.{next(steps)}"}

            async def send(message):
                pass

            asyncio.run(app({"type": "lifespan", "state": {}}, receive, send))
            signal.raise_signal(signal.SIGKILL)

        print(os.waitpid(forked(work), 0)[1] == signal.SIGKILL, scrape())
    """)
    assert said == "True 2.0\n"


def test_children_that_count_nothing_leave_no_files(run) -> None:
    """A pool of helpers that make no guarded calls does not fill the folder."""
    said = run("""
        prometheus.register()
        f(1)
        scrape()
        idle = forked(lambda: time.sleep(60))
        busy = forked(lambda: (f(1), time.sleep(60)))
        assert until(lambda: scrape() == 2)
        print(of(idle), len(of(busy)) > 0)
        for child in (idle, busy): os.kill(child, signal.SIGKILL)
    """)
    assert said == "[] True\n"


def test_damaged_files(run) -> None:
    """What a kill leaves empty, cut short or full of rubbish is passed over, counted, and told once."""
    said = run("""
        prometheus.register()
        f(1)
        assert scrape() == 1
        folder = os.environ["PROMETHEUS_MULTIPROC_DIR"]
        whole = open(os.path.join(folder, f"counter_{os.getpid()}.db"), "rb").read()
        for number, content in enumerate([b"", b"\\x01", whole[:60], b"\\xff" * 4096, whole[:8] + b"\\xff" * 99]):
            open(os.path.join(folder, f"counter_99999{number}.db"), "wb").write(content)
        assert scrape() == 1
        assert scrape("mlguard_instrumentation_errors_total", guard="other") >= 4
        assert scrape() == 1
    """)
    assert said.count("mlguard.metrics.damaged_file") == 4  # in one of them, nothing was written yet


def test_a_process_with_the_number_of_a_dead_one(run) -> None:
    """It goes on from what that one counted."""
    said = run("""
        f(1)
        def before():
            prometheus.register(); own.inc(3)
            for x in range(7): f(x)
            time.sleep(60)

        child = forked(before)
        assert until(lambda: len(of(child)) >= 3 and scrape() == 8), scrape()
        os.kill(child, signal.SIGKILL); os.waitpid(child, 0)

        def after():
            folder = os.environ["PROMETHEUS_MULTIPROC_DIR"]
            for name in of(child):  # as if the system had given it the same number
                os.rename(f"{folder}/{name}", f"{folder}/{name.replace(str(child), str(os.getpid()))}")
            f(1); f(2)
            prometheus.register()
            time.sleep(60)

        child = forked(after)
        assert until(lambda: scrape() == 10), scrape()
        assert scrape("own_total") == 3
        os.kill(child, signal.SIGKILL)
        print("done")
    """)
    assert said == "done\n"


def test_forks_in_the_midst_of_a_writing(run) -> None:
    """prometheus_client has one lock for all values: no child may be born while our thread holds it."""
    said = run("""
        import threading
        prometheus.register()
        f(1)
        writer = prometheus._writer()
        stop = threading.Event()

        def hammer():
            x = 0
            while not stop.is_set():
                x += 1
                f(x)
                writer.flush()

        threads = [threading.Thread(target=hammer) for _ in range(2)]
        for thread in threads: thread.start()

        def work():
            signal.alarm(20)
            own.inc()
            f(1)
            writer.flush()
            os._exit(0)

        states = [os.waitpid(forked(work), 0)[1] for _ in range(30)]
        stop.set()
        for thread in threads: thread.join()
        print(set(states), scrape("own_total"))
    """)
    assert said == "{0} 30.0\n"


@pytest.mark.parametrize("kind", ["absent", "file", "unset"])
def test_a_folder_that_is_none(run, tmp_path, kind) -> None:
    """register() says what is wrong with the folder, and how to mend it."""
    folder = tmp_path / "nowhere"
    if kind == "file":
        folder.write_text("")
    said = run(
        f"""
        if {kind!r} == "unset": del os.environ["PROMETHEUS_MULTIPROC_DIR"]
        try:
            prometheus.register()
        except PolicyError as error:
            print(error)
        """,
        folder,
    )
    assert "is not a folder. Fix: make an empty one before the workers start" in said


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user")
def test_a_folder_of_somebody_else(run) -> None:
    """One that can't be written to is refused with the user's number."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to others altogether
        os.chmod(folder, 0o755)
        said = run(
            """
            os.setresuid(65534, 65534, 65534)
            try:
                prometheus.register()
            except PolicyError as error:
                print(error)
            """,
            Path(folder),
        )
    assert "can't be written to by this user (uid 65534). Fix:" in said


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk(run, tmp_path) -> None:
    """Counts wait until there is room; the process, and its calls, go on."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"nothing can be mounted here: {mounted.stderr.strip()}")
    try:
        said = run(
            """
            folder = os.environ["PROMETHEUS_MULTIPROC_DIR"]
            with open(os.path.join(folder, "ballast"), "wb", buffering=0) as ballast:
                try:
                    while ballast.write(bytes(4096)): pass
                except OSError: pass
            prometheus.register()
            f(1)
            writer = prometheus._writer()
            writer.flush(); writer.flush()
            assert writer.failures >= 2
            assert f(2) == 2
            os.remove(os.path.join(folder, "ballast"))
            print(scrape())
            """,
            folder,
        )
    finally:
        subprocess.run(["umount", str(folder)], check=True)
    assert said.count("mlguard.metrics.not_written") == 1
    assert said.endswith("2.0\n")


def test_a_folder_that_goes_away(run) -> None:
    """A service whose folder is deleted under it goes on answering calls."""
    said = run("""
        import shutil
        prometheus.register()
        f(1)
        scrape()
        shutil.rmtree(os.environ["PROMETHEUS_MULTIPROC_DIR"])

        @guarded(monitor=Monitor(log=False))
        def g() -> int: return 1

        g()
        prometheus._writer().flush()
        assert f(2) == 2
        try:
            prometheus.exposition()
        except PolicyError as error:
            print("is not a folder" in str(error))
    """)
    assert said.endswith("True\n")


def test_functions_and_policies_that_went(run) -> None:
    """Gauges of what is gone fall to 0, and the policy that was is not told any more."""
    said = run("""
        import gc
        prometheus.register()

        def make(breaker):
            @guarded(monitor=Monitor(log=False), breaker=breaker)
            def g() -> int: return 1
            return g

        g = make(Breaker())
        g()
        assert scrape("mlguard_guard_info", guard="__main__.make.<locals>.g") == 1
        g = make(Breaker(window=20))
        gc.collect()
        g()
        print(scrape("mlguard_guard_info", guard="__main__.make.<locals>.g"), scrape())
        del g
        gc.collect()
        text, _ = prometheus.exposition()
        print(any(line.startswith("mlguard_guard_info") and "locals" in line for line in text.decode().splitlines()))
        print(scrape("mlguard_breaker_state", state="closed", guard="__main__.make.<locals>.g"), scrape())
    """)
    assert said == "1.0 2.0\nFalse\n0.0 2.0\n"


def test_the_application_reads_the_files_by_itself(run) -> None:
    """An application that has its own scrape finds the guards in it."""
    said = run("""
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.multiprocess import MultiProcessCollector
        prometheus.register()
        f(1); own.inc()
        prometheus._writer().flush()
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
        print(generate_latest(registry).decode())
    """).splitlines()
    assert "own_total 1.0" in said
    assert 'mlguard_calls_total{disposition="executed",guard="__main__.f"} 1.0' in said


CROWD = """
from mlguard.sinks import prometheus_dead
prometheus.register()

def work():
    f(1); own.inc()
    prometheus._writer().flush()
    os.kill(os.getpid(), signal.SIGKILL)

def crowd(number):
    for child in [forked(work) for _ in range(number)]: os.waitpid(child, 0)

def dead():
    return sum(name.endswith(".alive") for name in files()) - 1
"""


def test_many_dead_workers_leave_one_file_of_each_kind(run) -> None:
    """A service that recycles workers keeps their sums and not their files; the living are not touched."""
    said = run(
        CROWD
        + """
        living = forked(lambda: (f(1), time.sleep(60)))
        assert until(lambda: scrape() == 1)
        crowd(12)
        assert (scrape(), dead()) == (13, 13)
        crowd(12)
        assert scrape() == 25
        assert dead() == 1
        assert sum(name.startswith("counter") for name in files()) == 3
        assert scrape("own_total") == 24
        assert scrape("mlguard_call_duration_seconds_count", disposition="executed") == 25
        crowd(20)
        assert scrape() == scrape() == 45
        assert sum(name.startswith("counter") for name in files()) == 3
        os.kill(living, signal.SIGKILL)
        print(scrape("own_total"))
        """.replace("\n        ", "\n")
    )
    assert said == "44.0\n"


@pytest.mark.parametrize(("at", "steps"), [("os.replace", range(7)), ("Path.unlink", [0, 1, 2, 4, 5, 8, 13, 50])])
def test_killed_while_putting_together(run, at, steps) -> None:
    """Wherever it is killed, the next scrape has every count once."""
    said = run(
        CROWD
        + f"""
        prometheus_dead.MOST = 2
        folder = prometheus_dead.Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
        original = prometheus_dead.{at}

        def killed(step):
            left = step

            def kills(*given, **more):
                nonlocal left
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1
                return original(*given, **more)

            prometheus_dead.{at} = kills
            prometheus_dead.put_together(folder)

        ends = set()
        for number, step in enumerate({list(steps)}, start=1):
            crowd(3)
            ends.add(os.waitpid(forked(lambda: killed(step)), 0)[1])
            assert scrape("own_total") == scrape() == 3 * number, (step, scrape("own_total"), files())
        print(sorted(ends), scrape())
        """.replace("\n        ", "\n")
    )
    assert said == f"[9, 1792] {3.0 * len(steps)}\n"  # killed in the midst, and at last it came to its end


class TestHere:
    """The same in this process, with the real value class of several processes, and without waiting for a thread."""

    @pytest.fixture
    def writer(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[prometheus_files.Writer]:
        monkeypatch.setattr(readings.of_this_process, "_sources", [])
        gc.collect()  # functions of other tests, whose last counts would come in the midst of this one
        readings.of_this_process.after_fork()
        monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
        monkeypatch.setattr(prometheus_files, "EVERY", 0.02)
        values = MultiProcessValue()
        monkeypatch.setattr(prometheus, "ValueClass", values)
        monkeypatch.setattr(prometheus_files, "ValueClass", values)
        prometheus.register()
        writer = prometheus._writer()
        yield writer
        thread, writer._thread = writer._thread, None
        assert thread is not None
        thread.join(60)
        assert not thread.is_alive()

    def count(self, name: str = "mlguard_calls_total", **labels: str) -> float:
        labels = labels or {"disposition": "executed"}
        text, _ = prometheus.exposition()
        families = text_string_to_metric_families(text.decode())
        samples = [sample for family in families for sample in family.samples]
        return sum(each.value for each in samples if each.name == name and labels.items() <= each.labels.items())

    def test_a_thread_writes(self, writer, tmp_path) -> None:
        """One thread, however often it is asked for, and what it writes is what a scrape reads."""

        @guarded(monitor=Monitor(log=False), breaker=Breaker())
        def f() -> None: ...

        f()
        writer.start()
        assert [thread.name for thread in threading.enumerate()].count("mlguard-prometheus") == 1
        wanted = tmp_path / f"histogram_{os.getpid()}.db"
        assert any(wanted.exists() or time.sleep(0.02) for _ in range(3_000))
        assert self.count() == 1
        assert self.count("mlguard_call_duration_seconds_bucket", le="+Inf") == 1
        assert self.count("mlguard_guard_info", policy="") == 1
        del f
        gc.collect()
        assert self.count() == 1
        assert self.count("mlguard_guard_info", policy="") == 0
        assert self.count("mlguard_breaker_state", state="closed") == 0

    def test_trouble(self, writer, tmp_path, capsys) -> None:
        """What can't be read or written is told once and counted."""
        (tmp_path / "counter_99999999.db").write_bytes(b"\x07")
        (tmp_path / "counter_notes.db").write_bytes(b"")
        (tmp_path / "gauge_livesum_99999999.db").write_bytes(b"\x07")
        (tmp_path / "mlguard_counter.plan").write_text("{")
        before = writer.failures
        self.count()
        self.count()
        assert writer.failures >= before + 4
        said = capsys.readouterr().out
        assert said.count("mlguard.metrics.damaged_file") == said.count("mlguard.metrics.not_put_together") == 1
        for path in tmp_path.iterdir():
            path.unlink()
        tmp_path.rmdir()

        @guarded(monitor=Monitor(log=False))
        def f() -> None: ...

        f()
        writer.flush()
        assert "mlguard.metrics.not_written" in capsys.readouterr().out
        with pytest.raises(PolicyError, match="is not a folder"):
            prometheus.exposition()

    def test_those_that_are_gone(self, writer, tmp_path, monkeypatch) -> None:
        """Their counters become one file, their gauges are no part of a scrape; a plan that was begun is ended."""

        @guarded(monitor=Monitor(log=False), breaker=Breaker())
        def f() -> None: ...

        f()
        writer.flush()
        monkeypatch.setattr(prometheus_dead, "MOST", 1)
        for number in (99_999_997, 99_999_998, 99_999_999):
            for kind in ("counter", "histogram", "gauge_livesum"):
                shutil.copy(tmp_path / f"{kind}_{os.getpid()}.db", tmp_path / f"{kind}_{number}.db")
            (tmp_path / f"mlguard_{number}.alive").touch()
        alive = [f"mlguard_{number}.alive" for number in sorted([os.getpid(), os.getppid()])]
        for name in (alive[0], alive[1], "mlguard_x.alive"):
            (tmp_path / name).touch()
        assert self.count() == 4
        assert self.count("mlguard_breaker_state", state="closed") == 1
        assert len(list(tmp_path.glob("counter_*.db"))) == 2
        assert {path.name for path in tmp_path.glob("mlguard_*.alive")} == {*alive, "mlguard_x.alive"}
        draft, gone = tmp_path / "mlguard_counter.draft", tmp_path / "counter_mlguard-gone-1.db"
        gone.rename(draft)
        shutil.copy(draft, gone)
        words = {"draft": draft.name, "into": "counter_mlguard-gone-2.db", "then_remove": [gone.name]}
        (tmp_path / "mlguard_counter.plan").write_text(json.dumps(words))
        assert self.count() == 4

    def test_the_end_of_the_interpreter_and_forks(self, writer, tmp_path) -> None:
        """The last writing is not left to the thread, and the state of a child is its own."""

        @guarded(monitor=Monitor(log=False))
        def f() -> None: ...

        f()
        writer._last()
        assert (tmp_path / f"counter_{os.getpid()}.db").exists()
        writer._hold()
        writer._release()
        thread = writer._thread
        writer._restart()
        assert writer._thread is not thread
        assert writer._thread.is_alive()
