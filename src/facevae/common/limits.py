"""What the system lets this process use: the machine's own, and the limits of control groups."""

import os
import re
import resource
from collections.abc import Iterator
from pathlib import Path

from facevae.common.errors import UserError

# Names an environment variable: the most worker processes to start.
PROCESSES = "FACEVAE_PROCESSES"


def control_groups(controller: str, root: Path = Path("/")) -> Iterator[Path]:
    """The folders of the control groups (cgroups) that this process is in, of both versions.

    A group is followed by those that it is nested in, whose limits hold as well.

    Args:
        controller: of version 1, such as "memory". A group of version 2 has all controllers.
        root: of the file system in which they are mounted.
    """
    own: dict[str, str] = {}
    for line in _lines(root / "proc" / "self" / "cgroup"):
        _, controllers, path = line.split(":", 2)
        own |= dict.fromkeys(controllers.split(","), path)  # version 2 has an empty name
    for line in _lines(root / "proc" / "self" / "mountinfo"):
        mounted, (kind, *_, options) = (part.split() for part in line.split(" - ", 1))
        name = {"cgroup": controller, "cgroup2": ""}.get(kind)
        if name not in own or (name and name not in options.split(",")):
            continue
        top, point = mounted[3], root / mounted[4].lstrip("/")
        # In a container the group may be named as seen from outside of it: its mount is the group.
        inside = f"{own[name]}/".startswith(f"{top.rstrip('/')}/") and ".." not in own[name]
        folder = point / own[name].removeprefix(top).lstrip("/") if inside else point
        yield folder
        yield from (each for each in folder.parents if each.is_relative_to(point))


def worker_processes(root: Path = Path("/")) -> int:
    """How many processes can work at the same time; fewer if `PROCESSES` says so.

    One for each core that this process may use: those that it may run on, or fewer if a control
    group limits the time on them (`docker run --cpus`, the limit of a pod or a batch job). A part
    of a core counts as one.

    Args:
        root: of the file system that tells of control groups.

    Raises:
        UserError: `PROCESSES` is not a number of processes.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    for group in control_groups("cpu", root):
        # Version 2 has both numbers in one file, and "max" for no limit; version 1 has -1.
        files = ("cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us")
        match " ".join(line for file in files for line in _lines(group / file)).split():
            case [quota, period] if quota.isdecimal() and period.isdecimal():
                cores = min(cores, -(-int(quota) // int(period)))
    allowed = os.environ.get(PROCESSES, "").strip()
    if allowed and not re.fullmatch("0*[1-9][0-9]{0,8}", allowed):
        raise UserError(f"{PROCESSES}: {allowed[:40]!r} is not a number of processes, 1 or more")
    return min(cores, int(allowed)) if allowed else cores


def memory_limit(root: Path = Path("/")) -> int | None:
    """Bytes of memory and swap that this process may use; None where the system does not tell.

    The smallest of what the machine has, of the limits of its control groups, and of its own limit
    (`ulimit -v`).

    Args:
        root: of the file system that tells.
    """
    machine = {}
    for line in _lines(root / "proc" / "meminfo"):
        if entry := re.fullmatch(r"(MemTotal|SwapTotal): +([0-9]+) kB", line):
            machine[entry[1]] = int(entry[2]) * 1024
    if "MemTotal" not in machine:
        return None
    memory, swap, both = [machine["MemTotal"]], [machine.get("SwapTotal", 0)], []
    for group in control_groups("memory", root):
        memory += _number(group / "memory.max") + _number(group / "memory.limit_in_bytes")
        swap += _number(group / "memory.swap.max")
        both += _number(group / "memory.memsw.limit_in_bytes")
    own, _ = resource.getrlimit(resource.RLIMIT_AS)
    both += [own] if own != resource.RLIM_INFINITY else []
    return min([min(memory) + min(swap), *both])


_THREAD = 128 * 2**20  # bytes of address space that a new thread may need, with its heap


def address_space_is_used_up() -> bool:
    """Whether `ulimit -v` leaves this process too little for one more thread."""
    own, _ = resource.getrlimit(resource.RLIMIT_AS)
    pages = [int(line.split()[0]) for line in _lines(Path("/proc/self/statm"))]
    used = sum(pages) * resource.getpagesize()
    return own != resource.RLIM_INFINITY and used + _THREAD > own


def _lines(file: Path) -> list[str]:
    try:
        # Names of mount points may be of any bytes, and have characters that Python ends lines at.
        text = file.read_text(encoding="utf-8", errors="surrogateescape")
        return text.removesuffix("\n").split("\n") if text else []
    except OSError:
        return []


def _number(file: Path) -> list[int]:
    """The number in a file; nothing if there is none, or "max"."""
    return [int(line) for line in _lines(file) if line.isdecimal()]
