"""How many threads nnframe takes: what the environment says, else processors, else what a container may use."""

import pathlib

import pytest

from nnframe import config

V2, V1 = "/sys/fs/cgroup/cpu.max", "/sys/fs/cgroup/cpu/"


@pytest.fixture
def machine(monkeypatch):
    """A machine of 16 processors, with the control-group files that the test names."""
    files = {}

    def read_text(path, *_, **__):
        if str(path) not in files:
            raise FileNotFoundError(path)
        return files[str(path)]

    monkeypatch.setattr(pathlib.Path, "read_text", read_text)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)), raising=False)
    for name in ("NNFRAME_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    return files


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 16),
        ({V2: "max 100000\n"}, 16),
        ({V2: "300000 100000\n"}, 3),
        ({V2: "50000 100000\n"}, 1),
        ({V2: "9900000 100000\n"}, 16),
        ({V1 + "cpu.cfs_quota_us": "400000\n", V1 + "cpu.cfs_period_us": "100000\n"}, 4),
        ({V1 + "cpu.cfs_quota_us": "-1\n", V1 + "cpu.cfs_period_us": "100000\n"}, 16),
    ],
)
def test_a_containers_quota_is_kept(machine, files, expected):
    machine.update(files)
    assert config.default_num_threads() == expected


def test_the_environment_goes_first(machine, monkeypatch):
    machine[V2] = "300000 100000\n"
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert config.default_num_threads() == 5
    monkeypatch.setenv("NNFRAME_NUM_THREADS", "7")
    assert config.default_num_threads() == 7
