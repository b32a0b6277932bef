"""The meeting of all machines of a training, before TensorFlow connects them.

TensorFlow waits for other machines without a word, and trains although their settings differ. So
all processes meet first. The chief listens at its address in TF_CONFIG. Every other process
connects to it and says who it is and what it is about to train. The chief tells all of them whom it
still waits for, and in the end whether all are about to train the same. A message is a line of
JSON.

This module does not import TensorFlow.
"""

import asyncio
import contextlib
import errno
import json
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from facevae.common.errors import StoppedError, UserError
from facevae.training.cluster import VARIABLE, Cluster, Machine

_POLL_SECONDS = 0.2
_RETRY_SECONDS = 0.5
_CONNECT_SECONDS = 5.0
_LONGEST_MESSAGE = 2**20  # bytes; settings take about 2000
_LISTED = 3
_SHOWN = 60  # characters of a value


def meet(
    cluster: Cluster,
    facts: Callable[[], Mapping[str, Any]],
    *,
    stop_requested: Callable[[], bool],
    report: Callable[[str], None],
) -> None:
    """Wait until all machines are there, and check that all are about to train the same.

    Args:
        facts: returns what this machine is about to train: by key, in types that JSON knows. It is
            called once, after this machine has checked the addresses.
        stop_requested: asked several times a second.
        report: is given whom this machine waits for, whenever that changes.

    Raises:
        UserError: an address of the cluster cannot be used; or machines differ in a fact, which
            the message names. Then all machines raise the same message.
        StoppedError: `stop_requested` returned True.
    """
    with _listening(cluster) as server:
        meeting = _Meeting(cluster, facts(), report)
        chief = cluster.this == cluster.chief
        meet_all = meeting.lead(server) if chief else meeting.follow()
        mistake = asyncio.run(meeting.unless_stopped(meet_all, stop_requested))
    if mistake:
        raise UserError(mistake)


def _listening(cluster: Cluster) -> socket.socket:
    """A socket at this machine's port, which keeps others from it until TensorFlow takes it."""
    known = {machine: _addresses(machine) for machine in cluster.machines}
    this = cluster.this
    if not any(_is_local(family, address) for family, address in known[this]):
        raise UserError(
            f"{VARIABLE}: task says that this machine is {this}, but {this.host} is not an address "
            f"of this machine; give each machine its own task.index (if a router translates this "
            f"machine's address, enter 0.0.0.0:{this.port} for {this.name}, on this machine only)"
        )
    families = [family for family, _ in known[this]]
    family = socket.AF_INET if socket.AF_INET in families else socket.AF_INET6
    try:
        return socket.create_server(("", this.port), family=family)
    except OSError as error:
        reason = error.strerror
        if error.errno == errno.EADDRINUSE:
            reason = "is in use, perhaps by an earlier training; end that"
        raise UserError(
            f"{VARIABLE}: port {this.port} of this machine, {this}: {reason}, or take another port "
            f"on all machines"
        ) from None


def _addresses(machine: Machine) -> list[tuple[socket.AddressFamily, Any]]:
    try:
        found = socket.getaddrinfo(machine.host, machine.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{VARIABLE}: {machine}: this machine knows no host {machine.host} ({reason}); correct "
            f"the name, or enter the host's numeric address"
        ) from None
    return [(family, address) for family, _, _, _, address in found]


def _is_local(family: socket.AddressFamily, address: Any) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address[0], 0, *address[2:]))
        except OSError:
            return False
    return True


def _line(**message: Any) -> bytes:
    return json.dumps(message).encode() + b"\n"


async def _message(reader: asyncio.StreamReader) -> dict[str, Any] | None:
    """The next message; None when the other side has gone.

    Raises:
        ValueError: what arrives is not a message.
        OSError: the connection is broken.
    """
    line = await reader.readline()
    if not line:
        return None
    try:
        message = json.loads(line)
    except RecursionError:
        message = None
    if not isinstance(message, dict):
        raise ValueError("not a message")
    return message


class _Meeting:
    def __init__(
        self, cluster: Cluster, facts: Mapping[str, Any], report: Callable[[str], None]
    ) -> None:
        self._cluster = cluster
        self._report = report
        self._waiting_for = ""
        self._facts = {
            "number of machines in TF_CONFIG": str(len(cluster.machines)),
            **{
                key: value if isinstance(value, str) else json.dumps(value)
                for key, value in facts.items()
            },
        }

    async def unless_stopped(self, work: Any, stop_requested: Callable[[], bool]) -> str:
        task = asyncio.ensure_future(work)
        while not task.done():
            await asyncio.wait({task}, timeout=_POLL_SECONDS)
            if not task.done() and stop_requested():
                task.cancel()
                raise StoppedError(f"stopped while waiting for {self._waiting_for}")
        return task.result()

    def _wait_for(self, whom: str) -> None:
        if whom != self._waiting_for:
            self._waiting_for = whom
            self._report(f"waiting for {whom}")

    async def lead(self, listening: socket.socket) -> str:
        """Wait for all others and tell them the outcome: what is wrong, "" if all agree."""
        others = {machine.name: machine for machine in self._cluster.machines[1:]}
        there: dict[Machine, tuple[asyncio.StreamWriter, dict[str, str]]] = {}
        changed = asyncio.Event()

        def enter(hello: dict[str, Any], writer: asyncio.StreamWriter) -> Machine | None:
            name, facts = hello.get("machine"), hello.get("facts")
            machine = others.get(name) if isinstance(name, str) else None
            if machine is None or not isinstance(facts, dict):
                refusal = f"{VARIABLE}: the list of {self._cluster.chief} lacks this machine"
            elif machine in there:
                refusal = f"{VARIABLE}: another process is {machine} already"
            else:
                there[machine] = writer, {str(key): str(value) for key, value in facts.items()}
                return machine
            remedy = "give all machines the same cluster, and each its own task.index"
            writer.write(_line(outcome=f"{refusal}; {remedy}"))
            return None

        async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            machine = None
            try:
                # Whatever else connects, such as a program that looks for open ports, is ignored.
                with contextlib.suppress(OSError, ValueError):
                    if hello := await _message(reader):
                        machine = enter(hello, writer)
                    if machine:
                        changed.set()
                        while await reader.read(1024):  # until it goes
                            pass
            finally:
                if machine:
                    del there[machine]
                    changed.set()
                writer.close()

        greetings = set()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            # A task of our own: asyncio (3.11) would complain about one that is cancelled.
            greetings.add(asyncio.create_task(greet(reader, writer)))

        server = await asyncio.start_server(connected, sock=listening, limit=_LONGEST_MESSAGE)
        try:
            while absent := [machine for machine in others.values() if machine not in there]:
                self._wait_for(_names(absent))
                for writer, _ in there.values():
                    writer.write(_line(waiting_for=self._waiting_for))
                changed.clear()
                await changed.wait()
            outcome = _differences(
                self._facts, {machine: there[machine][1] for machine in others.values()}
            )
            for writer, _ in there.values():
                writer.write(_line(outcome=outcome))
        finally:
            server.close()
        return outcome

    async def follow(self) -> str:
        """Tell the chief about this machine, and wait for the outcome."""
        chief = self._cluster.chief
        hello = _line(machine=self._cluster.this.name, facts=self._facts)
        whom = alone = f"the chief, {chief}"
        while True:
            self._wait_for(whom)
            try:
                async with asyncio.timeout(_CONNECT_SECONDS):
                    reader, writer = await asyncio.open_connection(
                        chief.host, chief.port, limit=_LONGEST_MESSAGE
                    )
                try:
                    writer.write(hello)
                    while message := await _message(reader):
                        if "outcome" in message:
                            return str(message["outcome"])
                        self._wait_for(str(message.get("waiting_for")))
                finally:
                    writer.close()
                whom = alone
            except OSError:
                whom = alone
            except ValueError:
                # So answers TensorFlow of an earlier training, until it notices that others died.
                whom = f"{alone}, where another program or an earlier training answers"
            await asyncio.sleep(_RETRY_SECONDS)


def _names(machines: Sequence[Machine]) -> str:
    *first, last = map(str, machines)
    return f"{', '.join(first)} and {last}" if first else last


def _shown(value: str | None) -> str:
    if value is None:
        return "nothing"
    value = value if value.isprintable() else ascii(value)
    return value if len(value) <= _SHOWN else f"{value[:_SHOWN]}..."


def _differences(own: dict[str, str], others: dict[Machine, dict[str, str]]) -> str:
    """A sentence that names what differs from the chief's facts; "" if nothing does."""
    found = [
        f"{_shown(key)}: {machine} has {_shown(facts.get(key))}, the chief {_shown(own.get(key))}"
        for machine, facts in others.items()
        for key in {**own, **facts}
        if facts.get(key) != own.get(key)
    ]
    if not found:
        return ""
    more = [f"{len(found) - _LISTED} more differ"] if len(found) > _LISTED else []
    return (
        f"{'; '.join([*found[:_LISTED], *more])}; all machines must train the same: give them the "
        f"same parameters, code, images and libraries, and start all again"
    )
