"""The machines of one training, as the environment variable TF_CONFIG names them.

This module does not import TensorFlow, so that a mistake is told at once.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from facevae.common.errors import UserError
from facevae.common.yaml_text import shown

VARIABLE = "TF_CONFIG"
# The jobs of a training in which all machines compute the same, in TensorFlow's order.
_JOBS = ("chief", "worker")
_EXAMPLE = (
    '{"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, '
    '"task": {"type": "worker", "index": 0}}'
)
_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9A-Za-z._-]+)):([0-9]{1,5})")


@dataclasses.dataclass(frozen=True)
class Machine:
    """A process of the training, one per machine.

    Attributes:
        job: "chief" or "worker".
        index: within its job, from 0.
        host, port: where it listens.
    """

    job: str
    index: int
    host: str
    port: int

    @property
    def name(self) -> str:
        """Such as "worker 1"."""
        return self.job if self.job == "chief" else f"{self.job} {self.index}"

    @property
    def address(self) -> str:
        """Such as "10.0.0.2:2222"."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.name} ({self.address})"


@dataclasses.dataclass(frozen=True)
class Cluster:
    """At least two machines that train one VAE together.

    Attributes:
        machines: all of them, the chief first: the job "chief", or else worker 0.
        own: the place of this process among them.
    """

    machines: tuple[Machine, ...]
    own: int

    @property
    def this(self) -> Machine:
        """The machine of this process."""
        return self.machines[self.own]

    @property
    def chief(self) -> Machine:
        """The machine that decides and writes."""
        return self.machines[0]

    @property
    def jobs(self) -> dict[str, list[str]]:
        """Addresses by job, as TensorFlow takes them."""
        jobs: dict[str, list[str]] = {}
        for machine in self.machines:
            jobs.setdefault(machine.job, []).append(machine.address)
        return jobs


def _refuse(mistake: str) -> NoReturn:
    raise UserError(f"{VARIABLE}: {mistake}")


def _section(config: dict[str, Any], name: str) -> dict[str, Any]:
    section = config.get(name)
    if not isinstance(section, dict):
        found = f"not {shown(section)}" if name in config else "which is missing"
        _refuse(f"{name} must be an object, {found}; an example of the whole: {_EXAMPLE}")
    return section


def _machine(job: str, index: int, address: Any) -> Machine:
    place = f"cluster.{job}[{index}]"
    match = _ADDRESS.fullmatch(address) if isinstance(address, str) else None
    if match is None:
        _refuse(
            f"{place} must be a machine and its port, such as 10.0.0.1:2222, not {shown(address)}"
        )
    host, port = match[1] or match[2], int(match[3])
    if not 0 < port < 2**16:
        _refuse(f"{place}: the port must be from 1 to 65535, not {port}")
    return Machine(job, index, host, port)


def _machines(cluster: dict[str, Any]) -> list[Machine]:
    for job in cluster:
        if job not in _JOBS:
            _refuse(
                f"cluster has the job {shown(job)}; this training has the jobs "
                f"{' and '.join(_JOBS)}"
            )
    machines = []
    for job in _JOBS:
        addresses = cluster.get(job, [])
        if not isinstance(addresses, list):
            _refuse(f"cluster.{job} must be a list of addresses, not {shown(addresses)}")
        machines += [_machine(job, index, address) for index, address in enumerate(addresses)]
    if len(cluster.get("chief", [])) > 1:
        _refuse(f"cluster.chief has {len(cluster['chief'])} addresses; there can be one chief")
    seen: dict[tuple[str, int], Machine] = {}
    for machine in machines:
        other = seen.setdefault((machine.host.lower(), machine.port), machine)
        if other is not machine:
            _refuse(
                f"{other.name} and {machine.name} have the same address {machine.address}; give "
                f"each its own"
            )
    return machines


def _own_place(task: dict[str, Any], machines: list[Machine]) -> int:
    job, index = task.get("type"), task.get("index")
    jobs = sorted({machine.job for machine in machines})
    if job not in jobs:
        _refuse(
            f"task.type must be {' or '.join(jobs)}, as in cluster, not {shown(job)}"
            if "type" in task
            else f"task.type is missing; it must be {' or '.join(jobs)}, as in cluster"
        )
    if isinstance(index, str) and re.fullmatch("[0-9]{1,9}", index):
        index = int(index)  # TensorFlow reads it, too
    count = sum(machine.job == job for machine in machines)
    if type(index) is not int or not 0 <= index < count:
        found = f"not {shown(index)}" if "index" in task else "and it is missing"
        numbers = "0" if count == 1 else f"from 0 to {count - 1}"
        _refuse(
            f"task.index must be {numbers}, because cluster.{job} has {count} "
            f"{'address' if count == 1 else 'addresses'}, {found}; it is this machine's place there"
        )
    return next(
        place
        for place, machine in enumerate(machines)
        if (machine.job, machine.index) == (job, index)
    )


def read_cluster(environment: Mapping[str, str]) -> Cluster | None:
    """The machines that TF_CONFIG in an environment names.

    Keys that this training does not need are ignored.

    Returns:
        None without TF_CONFIG, or if it names fewer than two machines.

    Raises:
        UserError: TF_CONFIG does not have the form that TensorFlow expects.
    """
    text = environment.get(VARIABLE) or "{}"
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = f"{error}" if isinstance(error, json.JSONDecodeError) else "too large or too deep"
        _refuse(f"is not JSON ({reason}): {shown(text)}; an example: {_EXAMPLE}")
    if not isinstance(config, dict):
        _refuse(f"must be an object, not {shown(config)}; an example: {_EXAMPLE}")
    machines = _machines(_section(config, "cluster")) if "cluster" in config else []
    if not machines:
        return None
    own = _own_place(_section(config, "task"), machines)
    return Cluster(tuple(machines), own) if len(machines) > 1 else None
