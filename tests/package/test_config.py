"""How many threads nnframe uses where nobody says so: environment, processors, a container's quota."""

import os
import subprocess
import sys

import pytest

import nnframe as nn
from nnframe.config import MOST_THREADS, default_num_threads

HUGE = "1" + "0" * 20


@pytest.fixture
def processors(monkeypatch):
    """A machine with eight processors that this process may use."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)


@pytest.fixture
def cgroup(tmp_path):
    """Write files of a container as they lie in /sys/fs/cgroup, and /proc/self/cgroup; return the root."""

    def write(files, groups="0::/\n"):
        for name, text in {f"sys/fs/cgroup/{name}": text for name, text in files.items()}.items():
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True, parents=True)
            path.write_text(text)
        (tmp_path / "proc/self").mkdir(exist_ok=True, parents=True)
        (tmp_path / "proc/self/cgroup").write_text(groups)
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("quota", "threads"),
    [
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("140000 100000", 1),
        ("10000 100000", 1),
        ("50000 50000", 1),
        ("6400000 100000", 8),
        ("max 100000", 8),
        ("-1 100000", 8),
        ("100000 0", 8),
        ("rubbish", 8),
        ("", 8),
    ],
)
def test_the_quota_of_a_container_counts(processors, cgroup, quota, threads):
    assert default_num_threads({}, cgroup({"cpu.max": quota + "\n"})) == threads, "cgroup v2"


def test_the_quota_of_an_older_container_counts(processors, cgroup):
    for quota, threads in (("300000", 3), ("-1", 8), ("0", 8)):
        files = {"cpu/cpu.cfs_quota_us": f"{quota}\n", "cpu/cpu.cfs_period_us": "100000\n"}
        assert default_num_threads({}, cgroup(files)) == threads, f"cgroup v1, {quota}"


def test_the_quota_of_a_group_above_counts(processors, cgroup):
    files = {"cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n", "a/b/cpu.max": "500000 100000\n"}
    for path, threads in (("/a/b", 3), ("/a", 3), ("/", 8), ("/gone/b", 8), ("/../a", 8)):
        assert default_num_threads({}, cgroup(files, f"0::{path}\n")) == threads, path
    files = {"cpu/a/cpu.cfs_quota_us": "250000\n", "cpu/a/cpu.cfs_period_us": "50000\n"}
    groups = "9:name=systemd:/x\n4:cpuacct,cpu:/a/b\n0::/\n"
    assert default_num_threads({}, cgroup(files, groups)) == 5, "version 1, with a controller that has no quota"


def test_a_container_that_sees_its_own_group_as_the_uppermost(processors, cgroup):
    files = {"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}
    assert default_num_threads({}, cgroup(files, "4:cpu,cpuacct:/docker/0123\n")) == 2


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs affinity")
def test_the_affinity_counts():
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); import nnframe as nn; "
    code += "print(nn.get_num_threads())"
    environ = {key: value for key, value in os.environ.items() if not key.endswith("_NUM_THREADS")}
    run = subprocess.run([sys.executable, "-P", "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert run.stdout == "1\n", run.stderr


def test_without_a_container_all_processors_are_used(processors, tmp_path):
    assert default_num_threads({}, tmp_path) == 8
    assert default_num_threads({}, tmp_path / "none") == 8


def test_this_machine_and_its_container():
    assert 1 <= default_num_threads({}) <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("environ", "threads"),
    [
        ({"NNFRAME_NUM_THREADS": "3", "OMP_NUM_THREADS": "5"}, 3),
        ({"OMP_NUM_THREADS": "5"}, 5),
        ({"OMP_NUM_THREADS": " 05 , 2"}, 5),
        ({"OMP_NUM_THREADS": "0"}, 1),
        ({"OMP_NUM_THREADS": "many"}, 1),
        ({"OMP_NUM_THREADS": "-3"}, 1),
        ({"OMP_NUM_THREADS": HUGE}, MOST_THREADS),
        ({"OMP_NUM_THREADS": "9" * 10_000}, MOST_THREADS),
        ({"NNFRAME_NUM_THREADS": HUGE}, MOST_THREADS),
        ({"NNFRAME_NUM_THREADS": "1000"}, MOST_THREADS),
        ({"NNFRAME_NUM_THREADS": ""}, 1),
    ],
)
def test_the_environment_comes_first(processors, cgroup, environ, threads):
    assert default_num_threads(environ, cgroup({"cpu.max": "100000 100000"})) == threads


@pytest.mark.parametrize("text", ["0", "-1", "2.5", "two", "1e3", "000"])
def test_what_is_no_number_of_threads_is_refused(text):
    with pytest.raises(ValueError, match=f"NNFRAME_NUM_THREADS: expected a whole number above 0, got '{text}'"):
        default_num_threads({"NNFRAME_NUM_THREADS": text})


def test_any_number_of_threads_may_be_asked_for(threads):
    threads(10**20)
    assert nn.get_num_threads() == MOST_THREADS, "as many as there can be"
    for wrong, error in ((0, ValueError), (-(10**20), ValueError), (1.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match="n: expected"):
            threads(wrong)


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "NNFRAME_NUM_THREADS"])
def test_a_huge_number_does_not_break_the_import(name):
    code = "import nnframe; print(nnframe.get_num_threads())"
    environ = {key: value for key, value in os.environ.items() if not key.endswith("_NUM_THREADS")} | {name: HUGE}
    run = subprocess.run([sys.executable, "-P", "-c", code], env=environ, capture_output=True, text=True, check=False)
    assert run.stdout == f"{MOST_THREADS}\n", run.stderr
