"""How many worker processes a job starts: as many as can work at the same time, and no more."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from facevae.common.errors import UserError
from facevae.common.limits import PROCESSES, worker_processes

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
_PRINT = "from facevae.common.limits import worker_processes; print(worker_processes())"


@pytest.fixture(autouse=True)
def _unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PROCESSES, raising=False)


def _in_another_process(before: str = "") -> int:
    command = [sys.executable, "-c", f"{before}\n{_PRINT}"]
    return int(subprocess.run(command, text=True, capture_output=True, check=True).stdout)


def test_processes_are_as_many_as_the_cores_that_the_job_may_run_on() -> None:
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system binds no process to cores")
    one = min(os.sched_getaffinity(0))
    assert _in_another_process(f"import os; os.sched_setaffinity(0, {{{one}}})") == 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [("1", 1), (" 1 ", 1), ("001", 1), ("", CORES), ("999999999", CORES)],
)
def test_processes_are_lowered_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, expected: int
) -> None:
    monkeypatch.setenv(PROCESSES, value)
    assert worker_processes(tmp_path) == expected


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "1e3", "9" * 400, "\u0661"])
def test_processes_that_are_no_number_are_a_sentence(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv(PROCESSES, value)
    with pytest.raises(UserError, match=f"^{PROCESSES}: .+ is not a number of processes, 1 or"):
        worker_processes()


def _file(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{content}\n")


def _version_2(root: Path, own: str, limits: dict[str, str]) -> None:
    _file(root / "proc/self/cgroup", f"0::{own}")
    _file(root / "proc/self/mountinfo", "30 29 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw")
    for group, limit in limits.items():
        _file(root / "sys/fs/cgroup" / group / "cpu.max", limit)


def _version_1(root: Path, own: str, limits: dict[str, tuple[int, int]]) -> None:
    _file(root / "proc/self/cgroup", f"5:memory:/elsewhere\n4:cpu,cpuacct:{own}\n0::/")
    mounts = (
        "33 32 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory",
        "34 32 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct",
    )
    _file(root / "proc/self/mountinfo", "\n".join(mounts))
    for group, (quota, period) in limits.items():
        folder = root / "sys/fs/cgroup/cpu,cpuacct" / group
        _file(folder / "cpu.cfs_quota_us", str(quota))
        _file(folder / "cpu.cfs_period_us", str(period))


@pytest.fixture
def _many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has more of them than this one, so that the limits below are limits."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)


@pytest.mark.usefixtures("_many_cores")
@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"a/b": "300000 100000"}, 3),
        ({"a/b": "250000 100000"}, 3),  # half a core is worth a process
        ({"a/b": "10000 100000"}, 1),
        ({"a/b": "max 100000"}, 64),
        ({"a/b": "max 100000", "a": "200000 100000"}, 2),  # of the group around it
        ({"a/b": "500000 100000", "a": "max 100000", ".": "400000 100000"}, 4),
        ({"another": "100000 100000"}, 64),
        ({"a/b": "nonsense"}, 64),
        ({}, 64),
    ],
)
def test_processes_are_limited_by_control_groups_of_version_2(
    tmp_path: Path, limits: dict[str, str], expected: int
) -> None:
    _version_2(tmp_path, "/a/b", limits)
    assert worker_processes(tmp_path) == expected


@pytest.mark.usefixtures("_many_cores")
@pytest.mark.parametrize(
    ("own", "limits", "expected"),
    [
        ("/a/b", {"a/b": (150_000, 100_000)}, 2),
        ("/a/b", {"a/b": (-1, 100_000)}, 64),
        ("/a/b", {"a/b": (-1, 100_000), "a": (50_000, 50_000)}, 1),
        # In a container that sees itself as the root, and is named as from outside of it.
        ("/docker/1f0c", {".": (300_000, 100_000)}, 3),
        ("/", {}, 64),
    ],
)
def test_processes_are_limited_by_control_groups_of_version_1(
    tmp_path: Path, own: str, limits: dict[str, tuple[int, int]], expected: int
) -> None:
    _version_1(tmp_path, own, limits)
    assert worker_processes(tmp_path) == expected


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group of this system, with the time of one core."""
    folder = Path(f"/sys/fs/cgroup/cpu/facevae-test-{os.getpid()}")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("no right to make a control group of version 1 here")
    try:
        (folder / "cpu.cfs_quota_us").write_text((folder / "cpu.cfs_period_us").read_text())
        yield folder
    finally:
        folder.rmdir()


def test_processes_are_limited_by_a_real_control_group(group: Path) -> None:
    join = f"import os; open({str(group / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))"
    assert _in_another_process(join) == 1
