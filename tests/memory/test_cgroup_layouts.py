"""Layouts of cgroups, written by hand, as no machine has them all: where we stand, and which limit is the nearest."""

from __future__ import annotations

import errno
import os
from itertools import pairwise
from pathlib import Path

import pytest

from mlguard.memory import Gauge, Reading, cgroup, read
from mlguard.memory.cgroup import V2, Cgroup

MIB = 1 << 20
PID = 4242

V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1_MOUNT = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
HYBRID = (
    "23 27 0:22 / /sys rw,relatime - sysfs sysfs rw\n"
    "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n"
    + V1_MOUNT
    + "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
)


def test_v2_subtracts_all_page_cache(layout):
    """On v2, used is memory.current less the file pages of both lists, and the limit is memory.max."""
    there = layout("0::/app.slice/web\n", V2_MOUNT)
    there.v2("/sys/fs/cgroup/app.slice/web", current=420 * MIB, limit=512 * MIB, cache=400 * MIB, procs=f"7\n{PID}\n")
    assert there.gauge().read() == Reading(20 * MIB, 512 * MIB, "cgroup v2 /sys/fs/cgroup/app.slice/web")


def test_v2_high_counts_when_it_is_lower(layout):
    """memory.high is a limit too: beyond it the kernel slows the process to a crawl. memory.low never is."""
    there = layout("0::/a\n", V2_MOUNT)
    there.v2("/sys/fs/cgroup/a", current=1, limit=512 * MIB, procs=f"{PID}\n", high=300 * MIB, low=10 * MIB)
    assert there.gauge().read().limit == 300 * MIB


def test_parent_limit_with_a_greedy_sibling(layout):
    """A parent's limit counts with the parent's usage: the sibling's 200 MiB are not ours to use."""
    there = layout("0::/pod/us\n", V2_MOUNT)
    there.v2("/sys/fs/cgroup/pod/us", current=3 * MIB, procs=f"{PID}\n")
    there.v2("/sys/fs/cgroup/pod", current=222 * MIB, limit=300 * MIB)
    assert there.gauge().read() == Reading(222 * MIB, 300 * MIB, "cgroup v2 /sys/fs/cgroup/pod")


def test_lower_parent_limit_wins_and_then_the_host(layout, a_host):
    """Of all levels and the host, the one with the least room decides."""
    there = layout("0::/pod/us\n", V2_MOUNT)
    there.v2("/sys/fs/cgroup/pod/us", current=10 * MIB, limit=900 * MIB, procs=f"{PID}\n")
    there.v2("/sys/fs/cgroup/pod", current=10 * MIB, limit=100 * MIB)
    host = a_host(0, 10_000 * MIB, "host")
    gauge = there.gauge(host)
    assert gauge.read().limit == 100 * MIB
    host.used = 9_950 * MIB
    assert gauge.read() == Reading(9_950 * MIB, 10_000 * MIB, "host")


def test_nearest_is_judged_by_the_share(layout, a_host):
    """Below a share of each limit another level may be the tightest: a full host outweighs a half-full container."""
    there = layout("0::/us\n", V2_MOUNT)
    there.v2("/sys/fs/cgroup/us", current=3_300 * MIB, limit=4_000 * MIB, procs=f"{PID}\n")
    gauge = there.gauge(a_host(23_200 * MIB, 24_000 * MIB, "host"))
    assert gauge.read().source.endswith("/us")
    assert gauge.read(0.85).source == "host"


def test_max_everywhere_means_the_host(layout):
    """Where no group sets a limit, the host's memory is the limit."""
    there = layout("0::/us\n", V2_MOUNT)
    there.v2("/sys/fs/cgroup/us", current=3 * MIB, procs=f"{PID}\n", high="max")
    assert there.gauge().read().source == "host"


def test_group_without_controller_uses_its_ancestors(layout):
    """A leaf that has no memory files of its own is limited by the ancestors that have them."""
    there = layout("0::/user.slice/session\n", V2_MOUNT)
    there.write("/sys/fs/cgroup/user.slice/session/cgroup.procs", f"{PID}\n")
    there.v2("/sys/fs/cgroup/user.slice", current=5 * MIB, limit=50 * MIB)
    assert there.gauge().read() == Reading(5 * MIB, 50 * MIB, "cgroup v2 /sys/fs/cgroup/user.slice")


def test_hybrid_host_uses_v1(layout):
    """Where v2 is mounted without the memory controller, v1 decides."""
    there = layout("4:memory:/jobs/a\n1:cpu:/x\n0::/\n", HYBRID)
    there.write("/sys/fs/cgroup/unified/cgroup.procs", f"{PID}\n")
    there.v1("/sys/fs/cgroup/memory/jobs/a", usage=90 * MIB, limit=100 * MIB, cache=60 * MIB, procs=f"{PID}\n")
    there.v1("/sys/fs/cgroup/memory/jobs", usage=95 * MIB)
    there.v1("/sys/fs/cgroup/memory", usage=99 * MIB)
    assert there.gauge().read() == Reading(30 * MIB, 100 * MIB, "cgroup v1 /sys/fs/cgroup/memory/jobs/a")


def test_v1_limit_of_an_ancestor_out_of_sight(layout):
    """In a v1 container whose own group is the mount's root, a pod's lower limit shows as the hierarchical one."""
    mount = "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro,relatime - cgroup cgroup rw,memory\n"
    there = layout("4:memory:/docker/abc\n", mount)
    there.v1("/sys/fs/cgroup/memory", usage=9, limit=900 * MIB, inherited=300 * MIB, procs=f"1\n{PID}\n")
    assert there.gauge().read() == Reading(9, 300 * MIB, "cgroup v1 /sys/fs/cgroup/memory")


def test_v1_without_hierarchy_stops_at_the_group(layout):
    """On old kernels a v1 parent without hierarchy does not limit its children."""
    there = layout("4:memory:/a/b\n", V1_MOUNT)
    there.v1("/sys/fs/cgroup/memory/a/b", usage=1 * MIB, limit=100 * MIB, procs=f"{PID}\n")
    there.v1("/sys/fs/cgroup/memory/a", usage=1 * MIB, limit=10 * MIB, hierarchy=0)
    assert there.gauge().read().limit == 100 * MIB


def test_private_namespace(layout):
    """In a container with its own cgroup namespace the path is ``/`` and the mount's root is the container's group."""
    there = layout("0::/\n", V2_MOUNT)
    there.v2("/sys/fs/cgroup", current=7 * MIB, limit=70 * MIB, procs=f"{PID}\n")
    assert there.gauge().read() == Reading(7 * MIB, 70 * MIB, "cgroup v2 /sys/fs/cgroup")


@pytest.mark.parametrize("seen", ["/", "/../.."])
def test_path_that_means_nothing_is_searched_for(layout, seen):
    """After ``unshare -C`` the path reads ``/`` while the mount shows the host: our process id tells where we are."""
    there = layout("0::/\n", V2_MOUNT.replace(" / ", f" {seen} ", 1))
    there.v2("/sys/fs/cgroup", current=900 * MIB, limit=1000 * MIB, procs="1\n2\n")
    there.v2("/sys/fs/cgroup/a", current=8 * MIB, procs="3\n")
    there.v2("/sys/fs/cgroup/a/us", current=7 * MIB, limit=70 * MIB, procs=f"{PID}\n")
    assert there.gauge().read().source == "cgroup v2 /sys/fs/cgroup/a/us"


def test_search_has_an_end(layout, monkeypatch):
    """A tree of any size is searched only so far, then the host's numbers serve."""
    monkeypatch.setattr(cgroup, "_DIRECTORIES_SEARCHED", 3)
    there = layout("0::/elsewhere\n", V2_MOUNT)
    for number in range(10):
        there.v2(f"/sys/fs/cgroup/{number}", current=1, limit=1, procs="1\n")
    assert there.gauge().read().source == "host"


def test_unconfirmed_directory_is_not_ours(layout):
    """A directory at the right path that does not list our process is somebody else's."""
    there = layout("0::/us\n", V2_MOUNT)
    there.v2("/sys/fs/cgroup/us", current=7 * MIB, limit=70 * MIB, procs="1\n")
    assert there.gauge().read().source == "host"


def test_threaded_group_is_confirmed_by_its_threads(layout):
    """A threaded group refuses to list processes; the list of threads confirms it."""
    there = layout("0::/dom/threads\n", V2_MOUNT)
    there.write("/sys/fs/cgroup/dom/threads/cgroup.threads", f"{PID}\n")
    there.v2("/sys/fs/cgroup/dom", current=7 * MIB, limit=70 * MIB)
    assert there.gauge().read().limit == 70 * MIB


def test_mount_point_with_a_space_and_two_mounts(layout):
    """Escaped mount points are understood, and of two mounts of one tree the one that shows more levels is used."""
    inner = "60 23 0:26 /pod/us /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
    outer = "61 23 0:26 / /host\\040fs/cgroup ro - cgroup2 cgroup2 rw\n"
    there = layout("0::/pod/us\n", inner + outer)
    there.v2("/sys/fs/cgroup", current=3, limit=80 * MIB, procs=f"{PID}\n")
    there.v2("/host fs/cgroup/pod/us", current=3, limit=80 * MIB, procs=f"{PID}\n")
    there.v2("/host fs/cgroup/pod", current=3, limit=50 * MIB)
    assert there.gauge().read() == Reading(3, 50 * MIB, "cgroup v2 /host fs/cgroup/pod")


def test_machine_without_proc(tmp_path):
    """Where there is no /proc at all, as on macOS and Windows, the host's numbers serve."""
    assert cgroup.find(tmp_path) == []
    assert cgroup.membership(tmp_path) == ""
    assert Gauge(tmp_path).read().source == "host"


def test_membership_without_mounts(layout):
    """A process in a cgroup that is mounted nowhere falls back to the host."""
    there = layout("0::/us\n", V2_MOUNT)
    (there.root / "proc/self/mountinfo").unlink()
    assert there.gauge().read().source == "host"


def test_limit_of_zero_is_a_limit(layout):
    """memory.max = 0 is a limit that leaves no room, not a missing one."""
    there = layout("0::/us\n", V2_MOUNT)
    there.v2("/sys/fs/cgroup/us", current=5, limit=0, procs=f"{PID}\n")
    reading = there.gauge().read()
    assert reading.limit == 0
    assert reading.room() == -5


@pytest.mark.parametrize("absurd", [2**63 - 4096, 2**62, -1])
def test_absurd_limits_mean_none(layout, absurd):
    """Numbers that no machine can mean are no limits."""
    there = layout("0::/us\n", V2_MOUNT)
    there.v2("/sys/fs/cgroup/us", current=5, limit=absurd, procs=f"{PID}\n")
    assert there.gauge().read().source == "host"


def test_garbled_files_are_passed_over_and_counted(layout):
    """A file that holds no number is counted, and the other limits go on deciding."""
    there = layout("0::/pod/us\n", V2_MOUNT)
    there.v2("/sys/fs/cgroup/pod/us", current=5, limit="lots", procs=f"{PID}\n")
    there.v2("/sys/fs/cgroup/pod", current=5, limit=50 * MIB)
    gauge = there.gauge()
    assert gauge.read().source == "cgroup v2 /sys/fs/cgroup/pod"
    assert gauge.failures == 1


def test_garbled_membership_is_passed_over_and_counted(layout, time_stands_still):
    """A /proc/self/cgroup that can't be understood leaves the host, is counted, and is looked at again."""
    there = layout("what is this\n", V2_MOUNT)
    there.v2("/sys/fs/cgroup/us", current=5, limit=50 * MIB, procs=f"{PID}\n")
    gauge = there.gauge()
    assert gauge.read().source == "host"
    assert gauge.failures == 1
    there.write("proc/self/cgroup", "0::/us\n")
    time_stands_still.now += 1.1
    assert gauge.read().source == "cgroup v2 /sys/fs/cgroup/us"


def test_limit_is_read_again_every_second(layout, time_stands_still):
    """A container resized in place is noticed within a second, and not read more often than that."""
    there = layout("0::/us\n", V2_MOUNT)
    there.v2("/sys/fs/cgroup/us", current=5, limit=50 * MIB, procs=f"{PID}\n")
    gauge = there.gauge()
    assert gauge.read().limit == 50 * MIB
    there.write("/sys/fs/cgroup/us/memory.max", f"{80 * MIB}\n")
    time_stands_still.now += 0.5
    assert gauge.read().limit == 50 * MIB
    time_stands_still.now += 0.6
    assert gauge.read().limit == 80 * MIB


def test_usage_is_never_old(layout):
    """The kept descriptor reads what the file says now."""
    there = layout("0::/us\n", V2_MOUNT)
    there.v2("/sys/fs/cgroup/us", current=5, limit=50 * MIB, procs=f"{PID}\n")
    gauge = there.gauge()
    assert gauge.read().used == 5
    there.write("/sys/fs/cgroup/us/memory.current", "9\n")
    assert gauge.read().used == 9


def test_move_to_another_group_is_noticed(layout, time_stands_still):
    """A process that is moved to another group is measured there within a second."""
    there = layout("0::/a\n", V2_MOUNT)
    there.v2("/sys/fs/cgroup/a", current=5, limit=50 * MIB, procs=f"{PID}\n")
    there.v2("/sys/fs/cgroup/b", current=6, limit=60 * MIB, procs=f"{PID}\n")
    gauge = there.gauge()
    assert gauge.read().limit == 50 * MIB
    there.write("proc/self/cgroup", "0::/b\n")
    time_stands_still.now += 1.1
    assert gauge.read() == Reading(6, 60 * MIB, "cgroup v2 /sys/fs/cgroup/b")


def test_removed_group_falls_back_and_comes_back(layout, time_stands_still):
    """A group whose files vanish is counted and passed over; once it is back it is found again."""
    there = layout("0::/us\n", V2_MOUNT)
    there.v2("/sys/fs/cgroup/us", current=5, limit=50 * MIB, procs=f"{PID}\n")
    gauge = there.gauge()
    assert gauge.read().limit == 50 * MIB
    gauge.close()
    (there.root / "sys/fs/cgroup/us/memory.current").unlink()
    assert gauge.read().source == "host"
    assert gauge.failures == 1
    there.v2("/sys/fs/cgroup/us", current=6, limit=50 * MIB, procs=f"{PID}\n")
    time_stands_still.now += 1.1
    assert gauge.read() == Reading(6, 50 * MIB, "cgroup v2 /sys/fs/cgroup/us")


def test_stale_descriptor_is_opened_anew(layout, monkeypatch):
    """ENODEV on a kept descriptor opens the files once more before it counts as unreadable."""
    there = layout("0::/us\n", V2_MOUNT)
    there.v2("/sys/fs/cgroup/us", current=5, limit=50 * MIB, procs=f"{PID}\n")
    gauge = there.gauge()
    gauge.read()
    real, stale = os.pread, [True]

    def pread(*args):
        if stale.pop() if stale else False:
            raise OSError(errno.ENODEV, "No such device")
        return real(*args)

    monkeypatch.setattr(os, "pread", pread)
    assert gauge.read().limit == 50 * MIB
    assert gauge.failures == 0


def test_no_descriptor_is_leaked(layout):
    """Closing gives back every descriptor, and so does a half-failed opening."""
    there = layout("0::/us\n", V2_MOUNT)
    there.v2("/sys/fs/cgroup/us", current=5, limit=50 * MIB, procs=f"{PID}\n")
    before = len(os.listdir("/proc/self/fd"))
    gauge = there.gauge()
    gauge.read()
    assert len(os.listdir("/proc/self/fd")) == before + 2
    gauge.close()
    probe = Cgroup(there.root / "sys/fs/cgroup/us", V2)
    (there.root / "sys/fs/cgroup/us/memory.stat").unlink()
    with pytest.raises(FileNotFoundError):
        probe.read()
    assert len(os.listdir("/proc/self/fd")) == before


def test_nothing_readable_is_an_error(tmp_path, a_host):
    """Where not even the host can be read, the gauge says so instead of making a number up."""
    gauge = Gauge(tmp_path, host=a_host(OSError("gone")))
    with pytest.raises(OSError, match="neither of a cgroup nor of the host"):
        gauge.read()


def test_read_tells_about_this_process():
    """`memory.read()` gives plausible numbers of the machine the tests run on."""
    used, limit, source = read()
    assert 0 < used < limit
    assert source.startswith(("host", "cgroup v"))


def test_find_confirms_our_own_process():
    """On a real machine, every level found is a directory that exists, the nearest first."""
    levels = cgroup.find()
    if not levels:
        pytest.skip("no memory cgroup on this machine")
    directories = [level.directory for level in levels]
    assert all(isinstance(directory, Path) and directory.is_dir() for directory in directories)
    assert all(above in below.parents for below, above in pairwise(directories))


def test_the_kubelets_number(layout):
    """working_set() leaves active file pages in, as the kubelet does; it is that of the nearest group."""
    there = layout("0::/pod/us\n", V2_MOUNT)
    there.v2("/sys/fs/cgroup/pod/us", current=420 * MIB, limit=512 * MIB, cache=400 * MIB, procs=f"{PID}\n")
    there.v2("/sys/fs/cgroup/pod", current=900 * MIB, limit=1024 * MIB)
    assert there.gauge().working_set() == 220 * MIB


def test_the_kubelets_number_on_v1(layout):
    """On v1 it takes off the inactive file pages of the whole hierarchy below the group."""
    there = layout("4:memory:/us\n", V1_MOUNT)
    there.v1("/sys/fs/cgroup/memory/us", usage=300 * MIB, cache=200 * MIB, procs=f"{PID}\n")
    gauge = there.gauge()
    assert gauge.working_set() == 200 * MIB
    gauge.close()
    (there.root / "sys/fs/cgroup/memory/us/memory.stat").unlink()
    assert gauge.working_set() is None


def test_no_group_has_no_kubelets_number(tmp_path):
    """On a machine without cgroups there is none."""
    assert Gauge(tmp_path).working_set() is None


def test_every_level_has_a_reading(layout):
    """readings() has one for each level with a limit, the nearest first and the host last; levels has all of them."""
    there = layout("0::/pod/us\n", V2_MOUNT)
    there.v2("/sys/fs/cgroup/pod/us", current=1, procs=f"{PID}\n")
    there.v2("/sys/fs/cgroup/pod", current=2, limit=50 * MIB)
    gauge = there.gauge()
    assert [reading.source for reading in gauge.readings()] == ["cgroup v2 /sys/fs/cgroup/pod", "host"]
    assert len(gauge.levels) == 3


def test_a_group_is_told_apart_by_its_directory(layout):
    """The same group is the same seen at any path, and another one at the same path is another."""
    inner = "60 23 0:26 /pod/us /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
    there = layout("0::/pod/us\n", inner)
    there.v2("/sys/fs/cgroup", current=3, limit=80 * MIB, procs=f"{PID}\n")
    status = os.stat(there.root / "sys/fs/cgroup")
    assert there.gauge().group == f"{status.st_dev}:{status.st_ino}"


def test_a_hidden_group_is_told_apart_by_namespace_and_path(layout, tmp_path):
    """Where no group is mounted, as in many sandboxes, the namespace and the path of the group tell it from others."""
    there = layout("0::/us\n", "")
    assert there.gauge().group is None
    there.write("proc/self/ns/cgroup", "")
    group = there.gauge().group
    assert group.endswith(":0::/us\n")
    assert Gauge(tmp_path / "nothing").group is None


def test_a_path_outside_of_the_mount_is_searched_for(layout):
    """A bind mount that shows another part of the tree than our own path does not mislead."""
    mount = "30 23 0:26 /elsewhere /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
    there = layout("0::/us\n", mount)
    there.v2("/sys/fs/cgroup", current=3, limit=80 * MIB, procs="1\n")
    assert there.gauge().read().source == "host"


def test_a_group_that_is_gone_is_not_without_a_limit(layout):
    """A removed directory is counted as unreadable; a missing limit beside a usage means none."""
    there = layout("0::/us\n", V2_MOUNT)
    there.v2("/sys/fs/cgroup/us", current=5, limit=50 * MIB, procs=f"{PID}\n")
    gauge = there.gauge()
    assert gauge.levels
    for name in ("memory.max", "memory.current"):
        (there.root / "sys/fs/cgroup/us" / name).unlink()
    assert gauge.read().source == "host"
    assert gauge.failures == 1


@pytest.mark.parametrize("content", ["", "\n", "12 34\n", "-1\n", "0x10\n", "\x00\x00"])
def test_garbage_for_usage_is_passed_over(layout, content):
    """A usage file with anything but a number is passed over and counted, and crashes nothing."""
    there = layout("0::/us\n", V2_MOUNT)
    there.v2("/sys/fs/cgroup/us", current=5, limit=50 * MIB, procs=f"{PID}\n")
    there.write("/sys/fs/cgroup/us/memory.current", content)
    gauge = there.gauge()
    reading = gauge.read()
    if content == "-1\n":
        assert reading.used == 0
    else:
        assert (reading.source, gauge.failures) == ("host", 1)


def test_a_file_that_may_not_be_read_is_passed_over(layout, monkeypatch):
    """Permission denied on the limit of a level is counted, and the other levels go on deciding."""
    there = layout("0::/pod/us\n", V2_MOUNT)
    there.v2("/sys/fs/cgroup/pod/us", current=5, limit=50 * MIB, procs=f"{PID}\n")
    there.v2("/sys/fs/cgroup/pod", current=5, limit=60 * MIB)
    real = Path.read_text

    def read_text(path, *args, **kwargs):
        if path.match("us/memory.max"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", read_text)
    gauge = there.gauge()
    assert gauge.read().limit == 60 * MIB
    assert gauge.failures == 1


DOCKER_ON_V2 = (
    "721 690 0:45 / / rw,relatime master:292 - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w,nouserxattr\n"
    "722 721 0:48 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw\n"
    "723 721 0:50 / /dev rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755,inode64\n"
    "725 721 0:52 / /sys ro,nosuid,nodev,noexec,relatime - sysfs sysfs ro\n"
    "726 725 0:26 / /sys/fs/cgroup ro,nosuid,nodev,noexec - cgroup2 cgroup rw,nsdelegate,memory_recursiveprot\n"
    "728 723 0:53 / /dev/shm rw,nosuid,nodev,noexec,relatime - tmpfs shm rw,size=65536k,inode64\n"
)
STAT_OF_V2 = "".join(
    f"{name} {value}\n"
    for name, value in {
        "anon": 241_172_480, "file": 419_430_400, "kernel": 6_291_456, "kernel_stack": 442_368,
        "pagetables": 1_540_096, "sec_pagetables": 0, "percpu": 10_800, "sock": 0, "vmalloc": 0, "shmem": 33_554_432,
        "zswap": 0, "zswapped": 0, "file_mapped": 52_428_800, "file_dirty": 0, "file_writeback": 0, "swapcached": 0,
        "anon_thp": 0, "file_thp": 0, "shmem_thp": 0, "inactive_anon": 274_726_912, "active_anon": 12_288,
        "inactive_file": 262_144_000, "active_file": 123_731_968, "unevictable": 0, "slab_reclaimable": 2_918_240,
        "slab_unreclaimable": 735_672, "slab": 3_653_912, "workingset_refault_anon": 0, "workingset_refault_file": 0,
        "workingset_activate_anon": 0, "workingset_activate_file": 0, "workingset_restore_anon": 0,
        "workingset_restore_file": 0, "workingset_nodereclaim": 0, "pgscan": 0, "pgsteal": 0, "pgfault": 96_413,
        "pgmajfault": 17, "pgrefill": 0, "pgactivate": 30_208, "pgdeactivate": 0, "pglazyfree": 0, "pglazyfreed": 0,
        "thp_fault_alloc": 0, "thp_collapse_alloc": 0,
    }.items()
)  # fmt: skip


def test_docker_on_v2_in_full(layout):
    """A Docker container on v2 with all that a kernel shows there: tmpfs (33 MB) stays counted, file pages don't."""
    there = layout("0::/\n", DOCKER_ON_V2)
    there.v2("/sys/fs/cgroup", current=667_000_000, limit=1_073_741_824, procs=f"1\n{PID}\n")
    there.write("/sys/fs/cgroup/memory.stat", STAT_OF_V2)
    gauge = there.gauge()
    used = 667_000_000 - 262_144_000 - 123_731_968
    assert gauge.read() == Reading(used, 1_073_741_824, "cgroup v2 /sys/fs/cgroup")
    assert gauge.working_set() == 667_000_000 - 262_144_000


HYBRID_AS_RECORDED = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
23 27 0:22 / /sys rw,relatime - sysfs sysfs rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard,resv_strict,resuid=65534,resgid=65534
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
33 31 0:30 / /sys/fs/cgroup/cpuacct rw,relatime - cgroup cgroup rw,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""


def test_a_recorded_hybrid_machine(layout):
    """Recorded on a virtual machine with both versions mounted: v2 lists our process too, and has no memory files."""
    there = layout("9:name=systemd:/\n8:pids:/\n4:memory:/jobs/94a8\n2:cpuacct:/\n1:cpu:/\n0::/\n", HYBRID_AS_RECORDED)
    for path in ("unified", "systemd", "pids"):
        there.write(f"/sys/fs/cgroup/{path}/cgroup.procs", f"1\n{PID}\n")
    there.v1("/sys/fs/cgroup/memory/jobs/94a8", usage=90 * MIB, procs=f"{PID}\n", inherited=100 * MIB)
    there.v1("/sys/fs/cgroup/memory/jobs", usage=95 * MIB, limit=100 * MIB)
    there.v1("/sys/fs/cgroup/memory", usage=99 * MIB)
    gauge = there.gauge()
    assert gauge.read() == Reading(95 * MIB, 100 * MIB, "cgroup v1 /sys/fs/cgroup/memory/jobs")
    assert [probe.source for probe in gauge.levels[:-1]] == [
        f"cgroup v1 /sys/fs/cgroup/memory{path}" for path in ("/jobs/94a8", "/jobs", "")
    ]


def test_names_that_are_no_utf8(layout):
    """Groups and mount points are named in bytes: one that is no UTF-8, or a line nobody understands, hides nothing."""
    there = layout("", "")
    name = os.fsdecode(b"caf\xe9")
    there.v2(f"/sys/fs/cgroup/{name}", current=1, limit=512 * MIB, procs=f"{PID}\n")
    (there.root / "proc/self/cgroup").write_bytes(b"0::/caf\xe9\n")
    odd = b"what is this\n1 1 0:1 / /mnt/caf\xe9 rw - ext4 /dev/sdb rw\n"
    (there.root / "proc/self/mountinfo").write_bytes(odd + V2_MOUNT.encode())
    gauge = there.gauge()
    assert gauge.read() == Reading(1, 512 * MIB, r"cgroup v2 /sys/fs/cgroup/caf\xe9")
    assert gauge.failures == 0


def test_a_descriptor_that_is_another_file_by_now(layout):
    """Where somebody closed our descriptors and opened files of their own, those are neither closed nor believed."""
    there = layout("0::/a\n", V2_MOUNT)
    there.v2("/sys/fs/cgroup/a", current=5, limit=512 * MIB, procs=f"{PID}\n")
    gauge = there.gauge()
    assert gauge.read().used == 5
    (usage, _), (stat, _) = gauge._cgroups[0]._files
    theirs = os.open("/dev/null", os.O_RDONLY)
    os.dup2(theirs, usage)
    os.dup2(theirs, stat)
    assert gauge.read().used == 5
    for descriptor in (theirs, usage, stat):
        os.close(descriptor)  # none was closed behind its owner's back
