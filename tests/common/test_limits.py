"""How much memory this process may use, as different systems tell it."""

import subprocess
import sys
from pathlib import Path

import pytest

from facevae.common.limits import control_groups, memory_limit

GIB = 2**30
UNLIMITED = 9223372036854771712  # as version 1 says it


def _system(root: Path, files: dict[str, object]) -> Path:
    """A file system that tells of 16 GiB of memory and 4 GiB of swap, and what `files` have."""
    meminfo = f"MemTotal: {16 * 2**20} kB\nMemFree:  1 kB\nSwapTotal:  {4 * 2**20} kB\n"
    for name, content in {"proc/meminfo": meminfo, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


def _version_1(group: str, top: str = "/") -> dict[str, object]:
    mounts = (
        "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755",
        f"32 31 0:29 {top} /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct",
        f"35 31 0:32 {top} /sys/fs/cgroup/memory rw,relatime shared:7 - cgroup cgroup rw,memory",
    )
    groups = f"12:cpu,cpuacct:/elsewhere\n8:memory:{group}\n1:name=systemd:{group}"
    return {"proc/self/cgroup": groups, "proc/self/mountinfo": "\n".join(mounts)}


def _version_2(group: str, top: str = "/") -> dict[str, object]:
    mounts = (
        "22 1 0:21 / /proc rw - proc proc rw",
        f"31 23 0:28 {top} /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw,nsdelegate",
    )
    return {"proc/self/cgroup": f"0::{group}", "proc/self/mountinfo": "\n".join(mounts)}


def test_memory_limit_is_the_machines_memory_and_swap(tmp_path: Path) -> None:
    assert memory_limit(_system(tmp_path, {})) == 20 * GIB
    assert memory_limit(tmp_path / "nothing") is None
    real = memory_limit()
    assert real is None or real > 2**28


V1, V2 = "sys/fs/cgroup/memory", "sys/fs/cgroup"


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        # Version 2: memory and swap have limits of their own; a group's are those of its parents.
        ({**_version_2("/a/b"), f"{V2}/a/b/memory.max": 3 * GIB}, 7 * GIB),
        ({**_version_2("/a/b"), f"{V2}/a/b/memory.max": "max"}, 20 * GIB),
        (
            {
                **_version_2("/a/b"),
                f"{V2}/a/b/memory.max": "max",
                f"{V2}/a/b/memory.swap.max": 0,
                f"{V2}/a/memory.max": 5 * GIB,
                f"{V2}/a/memory.swap.max": GIB,
            },
            5 * GIB,
        ),
        ({**_version_2("/a"), f"{V2}/a/memory.max": 99 * GIB}, 20 * GIB),
        ({**_version_2("/a"), f"{V2}/a/memory.max": "nonsense"}, 20 * GIB),
        # In a container: the group is the top of what is mounted.
        ({**_version_2("/"), f"{V2}/memory.max": 2 * GIB, f"{V2}/memory.swap.max": 0}, 2 * GIB),
        ({**_version_2("/../x"), f"{V2}/memory.max": 2 * GIB}, 6 * GIB),
        # Version 1: one limit for memory, one for memory and swap together.
        (
            {
                **_version_1("/a/b"),
                f"{V1}/a/b/memory.limit_in_bytes": UNLIMITED,
                f"{V1}/a/b/memory.memsw.limit_in_bytes": UNLIMITED,
                f"{V1}/memory.limit_in_bytes": UNLIMITED,
            },
            20 * GIB,
        ),
        (
            {
                **_version_1("/a/b"),
                f"{V1}/a/b/memory.limit_in_bytes": 8 * GIB,
                f"{V1}/a/memory.limit_in_bytes": 6 * GIB,
                f"{V1}/a/memory.memsw.limit_in_bytes": 7 * GIB,
            },
            7 * GIB,
        ),
        ({**_version_1("/a"), f"{V1}/a/memory.limit_in_bytes": 6 * GIB}, 10 * GIB),
        # In a container that sees the names of the host.
        (
            {
                **_version_1("/docker/1f", top="/docker/1f"),
                f"{V1}/memory.limit_in_bytes": 3 * GIB,
                f"{V1}/memory.memsw.limit_in_bytes": 3 * GIB,
            },
            3 * GIB,
        ),
        ({**_version_1("/docker/1f", top="/pod"), f"{V1}/memory.limit_in_bytes": GIB}, 5 * GIB),
        # A group of another controller says nothing.
        ({**_version_1("/a"), f"{V1}/elsewhere/memory.limit_in_bytes": GIB}, 20 * GIB),
    ],
)  # fmt: skip
def test_memory_limit_is_the_smallest_of_the_control_groups(
    tmp_path: Path, files: dict[str, object], limit: int
) -> None:
    assert memory_limit(_system(tmp_path, files)) == limit


def test_control_groups_are_the_own_one_and_those_around_it(tmp_path: Path) -> None:
    both = _version_1("/a/b")
    unified = "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"
    both["proc/self/cgroup"] = f"{both['proc/self/cgroup']}\n0::/"
    both["proc/self/mountinfo"] = f"{both['proc/self/mountinfo']}\n{unified}"
    found = list(control_groups("memory", _system(tmp_path, both)))
    named = [str(each.relative_to(tmp_path / "sys" / "fs" / "cgroup")) for each in found]
    assert named == ["memory/a/b", "memory/a", "memory", "unified"]
    others = list(control_groups("cpu", tmp_path))
    assert others[0] == tmp_path / "sys/fs/cgroup/cpu/elsewhere"
    assert list(control_groups("memory", tmp_path / "nothing")) == []


def test_memory_limit_is_no_more_than_the_process_own() -> None:
    code = "from facevae.common.limits import memory_limit; print(memory_limit())"
    command = ["sh", "-c", f"ulimit -v 1000000; exec {sys.executable} -c '{code}'"]
    assert subprocess.check_output(command, text=True) == f"{1000000 * 1024}\n"


def test_mount_points_may_have_any_names(tmp_path: Path) -> None:
    """Bytes that are no UTF-8, and characters at which Python ends a line."""
    files = {**_version_2("/a"), f"{V2}/a/memory.max": 3 * GIB}
    root = _system(tmp_path, files)
    mounts = root / "proc" / "self" / "mountinfo"
    odd = b"".join(
        b"40 23 0:30 / /media/" + name + b" rw - ext4 /dev/sdb rw\n"
        for name in (b"caf\xe9", "\u2028".encode(), b"\x85")
    )
    mounts.write_bytes(odd + mounts.read_bytes())
    assert memory_limit(root) == 7 * GIB
