"""What `mlguard doctor` finds: limits and the way to them, the allocator, the ledger, learning, and advice."""

from __future__ import annotations

import json

import pytest

from mlguard.memory import allocator, checkup, container, meter
from mlguard.memory.allocator import Allocator
from mlguard.memory.checkup import examine

MIB = 1 << 20


def test_this_machine_can_be_examined():
    """Whatever this machine is, there are findings, and they are JSON."""
    findings = examine()
    assert json.loads(json.dumps(findings)) == findings
    assert findings["limit"]["limit"] > 0
    assert findings["problems"] == []
    assert findings["levels"][-1]["source"] == "host"
    assert findings["membership"] == [] or any("memory" in line or "::" in line for line in findings["membership"])


def v1(layout, a_host, **figures):
    made = layout("4:memory:/pod/app\n", "30 20 0:25 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n")
    made.v1("sys/fs/cgroup/memory/pod/app", usage=100 * MIB, procs="4242\n", cache=60 * MIB, **figures)
    made.v1("sys/fs/cgroup/memory/pod", usage=300 * MIB, limit=500 * MIB)
    made.v1("sys/fs/cgroup/memory", usage=900 * MIB)
    return made.gauge(a_host(10 * MIB, 9000 * MIB, "host"))


def test_the_path_shows_every_level_and_why_one_decides(layout, a_host):
    """The parent with the least room decides over the group's own limit and the host, by both ways of counting."""
    findings = examine(0.8, v1(layout, a_host, limit=450 * MIB))
    limit = findings["limit"]
    assert limit["source"].endswith("/pod")
    assert limit["why"] == "of 3 limits above this process it leaves the least room below 80%"
    assert limit["room"] == 100 * MIB
    own, parent, root, host = findings["levels"]
    assert own["used"] == 40 * MIB
    assert own["working_set"] == 70 * MIB
    assert own["room"] - own["room_by_kubelet"] == 30 * MIB
    assert root["limit"] is None
    assert host["working_set"] is None
    assert parent["limit"] == 500 * MIB


def test_a_machine_where_nothing_can_be_read_is_a_finding(a_host, tmp_path):
    """No limit at all, a host that can't be read: nothing fails, the problems are listed."""
    from mlguard.memory import Gauge

    findings = examine(of=Gauge(tmp_path, host=a_host(OSError("gone"))))
    assert findings["limit"] == {}
    assert any("gone" in problem for problem in findings["problems"])
    assert any("no memory limit can be read" in problem for problem in findings["problems"])


def test_a_layout_that_can_not_be_understood_is_a_finding():
    """A gauge that raises anything at all is passed over."""

    class Broken:
        @property
        def levels(self):
            raise RuntimeError("odd")

        @property
        def group(self):
            raise RuntimeError("odd")

    findings = examine(of=Broken())
    assert [problem.split(":")[0] for problem in findings["problems"]] == ["cgroups", "limit", "ledger"]
    assert findings["allocator"]["name"]


def advice_of(findings):
    return " | ".join(each["setting"] for each in findings["advice"])


def test_advice_names_the_setting_and_its_price(monkeypatch, layout, a_host):
    """glibc as it comes is worth a setting, which has a price; with that set, nothing is said of it."""
    monkeypatch.setattr(allocator, "_returning", False)
    kept, returned = (
        Allocator("glibc 2.36", {}, True),
        Allocator("glibc 2.36", {"MALLOC_MMAP_THRESHOLD_": "1048576"}, True),
    )
    monkeypatch.setattr(allocator, "of_this_process", lambda: kept)
    found = examine(of=v1(layout, a_host, limit=450 * MIB))
    assert "return_freed_memory=True" in advice_of(found)
    assert all(each["because"] and each["costs"] for each in found["advice"])
    monkeypatch.setattr(allocator, "of_this_process", lambda: returned)
    found = examine(of=v1(layout, a_host, limit=450 * MIB))
    assert "return_freed_memory" not in advice_of(found)
    assert found["allocator"]["settings"] == {"MALLOC_MMAP_THRESHOLD_": "1048576"}


def test_advice_for_machines_that_lack_something(monkeypatch, a_host, tmp_path):
    """No container limit, another allocator, no way to measure, no ledger: each is told with what to do."""
    from mlguard.memory import Gauge

    blind = meter.Meter()
    blind._why_not = "there is no /proc"
    monkeypatch.setattr(checkup.meter, "Meter", lambda: blind)
    monkeypatch.setattr(allocator, "of_this_process", lambda: Allocator("jemalloc", {}, False))
    said = advice_of(examine(of=Gauge(tmp_path, host=a_host(9 * MIB, 10 * MIB, "host"))))
    assert "a memory limit for the container" in said
    assert "a higher limit for host" in said
    assert "a short decay in jemalloc's own settings" in said
    assert 'a declared need, such as need="3x"' in said
    assert "/proc mounted in the container" in said


def test_a_ledger_that_can_not_be_used_is_advised_about(monkeypatch, tmp_path):
    """Where the folder for the ledger is wrong, the advice is about the folder."""
    monkeypatch.setenv("MLGUARD_MEMORY_LEDGER", str(tmp_path / "missing"))
    assert "a folder for the ledger" in advice_of(examine())


def test_page_cache_that_the_kubelet_counts_is_explained(layout, a_host):
    """Where the working set is far above what is really used, an alert on it would be wrong."""
    made = layout("4:memory:/app\n", "30 20 0:25 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n")
    made.v1("sys/fs/cgroup/memory/app", usage=400 * MIB, procs="4242\n", cache=390 * MIB, limit=450 * MIB)
    found = examine(of=made.gauge(a_host(0, 9000 * MIB, "host")))
    assert "no alert on the kubelet's working set alone" in advice_of(found)


def test_the_ledger_is_looked_at_and_left_as_it_is(tmp_path):
    """Before any call there is no file, and looking makes none; with a call in flight its promise is shown."""
    before = examine()["ledger"]
    assert before["state"].startswith("not there yet")
    claim = container.of_this_container.promise(5 * MIB)
    container.of_this_container.reserve(5 * MIB, container.gauges.of_this_process, 1.0).claim.release()
    found = examine()["ledger"]
    assert (found["state"], found["processes"], found["promised"]) == ("in use", 1, 5 * MIB)
    claim.release()


def test_a_ledger_that_can_not_be_used_is_a_finding(monkeypatch, tmp_path):
    """A file of somebody else's, or a folder that is none, is told with its fix."""
    claim = container.of_this_container.promise(5 * MIB)
    path = container.of_this_container.state()["file"]
    claim.release()
    if path is None:
        pytest.skip("no ledger file can be used here")
    container.of_this_container.renew()
    with open(path, "wb") as file:
        file.write(b"something else" * 100)
    assert "not usable" in examine()["ledger"]["state"]
    monkeypatch.setenv("MLGUARD_MEMORY_LEDGER", str(tmp_path / "none"))
    found = examine()["ledger"]
    assert "is no folder" in found["state"]
