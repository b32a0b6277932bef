"""All machines of a training meet before it: they wait with words, and all train the same."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from helpers import free_ports

from facevae.common.errors import StoppedError, UserError
from facevae.training.cluster import Cluster, Machine
from facevae.training.meeting import meet

FACTS = {"train.learning_rate": 0.001, "train.seed": 1, "encoder.filters": [32, 64]}
LIMIT = 20.0  # seconds after which a test gives up


def _cluster(own: int, ports: list[int], host: str = "127.0.0.1") -> Cluster:
    machines = [Machine("worker", index, host, port) for index, port in enumerate(ports)]
    return Cluster(tuple(machines), own)


class _Process:
    """One machine's part in a meeting, in a thread."""

    def __init__(self, cluster: Cluster, **facts: Any) -> None:
        self.said: list[str] = []
        self.stop = False
        self.failed: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(cluster, FACTS | facts))
        self._thread.start()

    def _run(self, cluster: Cluster, facts: dict[str, Any]) -> None:
        try:
            meet(cluster, lambda: facts, stop_requested=lambda: self.stop, report=self.said.append)
        except Exception as error:
            self.failed = error

    def outcome(self) -> Exception | None:
        self._thread.join(LIMIT)
        assert not self._thread.is_alive()
        return self.failed

    def wait_for(self, sentence: str) -> None:
        deadline = time.monotonic() + LIMIT
        while sentence not in self.said:
            assert time.monotonic() < deadline, self.said
            assert self._thread.is_alive(), self.failed
            time.sleep(0.01)


def _meet(*clusters: Cluster, **facts: list[Any]) -> list[Exception | None]:
    """What becomes of each machine; of `facts`, each has its own value."""
    processes = [
        _Process(
            cluster, **{key.replace("__", "."): values[place] for key, values in facts.items()}
        )
        for place, cluster in enumerate(clusters)
    ]
    return [process.outcome() for process in processes]


def _clusters(count: int) -> list[Cluster]:
    ports = free_ports(count)
    return [_cluster(place, ports) for place in range(count)]


def test_meeting_of_equal_machines_ends_well(caplog: pytest.LogCaptureFixture) -> None:
    assert _meet(*_clusters(3)) == [None] * 3
    assert not caplog.records  # asyncio has nothing to complain about


def test_meeting_waits_with_words_and_names_whom_it_waits_for() -> None:
    clusters = _clusters(3)
    names = [str(machine) for machine in clusters[0].machines]
    last = _Process(clusters[2])
    last.wait_for(f"waiting for the chief, {names[0]}")
    chief = _Process(clusters[0])
    for process in (chief, last):
        process.wait_for(f"waiting for {names[1]}")
    last.stop = True
    stopped = last.outcome()
    assert isinstance(stopped, StoppedError)
    assert str(stopped) == f"stopped while waiting for {names[1]}"
    chief.wait_for(f"waiting for {names[1]} and {names[2]}")
    others = [_Process(clusters[place]) for place in (1, 2)]
    assert [process.outcome() for process in (chief, *others)] == [None] * 3


def test_meeting_names_the_key_that_differs_in_every_process() -> None:
    clusters = _clusters(3)
    messages = {str(error) for error in _meet(*clusters, train__seed=[1, 1, 2])}
    assert messages == {
        f"train.seed: {clusters[2].this} has 2, the chief 1; all machines must train the same: "
        f"give them the same parameters, code, images and libraries, and start all again"
    }


def test_meeting_names_three_keys_and_cuts_their_values() -> None:
    clusters = _clusters(2)
    first, second = _meet(
        *clusters,
        encoder__filters=[[32] * 1000, [64] * 1000],
        train__seed=[1, 2],
        code=["\x1b[2J", "x" * 1000],
        more=[1, 2],
        another=[None, True],
    )
    assert isinstance(first, UserError)
    assert str(first) == str(second)
    message = str(first)
    assert message.isprintable()
    assert len(message) < 600
    found = r"^train.seed: .* has 2, the chief 1; encoder.filters: .* has \[64, .+\.\.\., the chief"
    assert re.match(found, message)
    assert r"the chief '\x1b[2J'; 2 more differ; all machines" in message


def test_meeting_of_machines_with_lists_of_different_lengths() -> None:
    ports = free_ports(3)
    chief, other = _meet(_cluster(0, ports[:2]), _cluster(1, ports))
    for error in (chief, other):
        assert re.match(
            r"number of machines in TF_CONFIG: worker 1 \(.+ has 3, the chief 2", str(error)
        )


def test_meeting_of_two_with_the_same_index() -> None:
    ports = free_ports(4)
    chief = _Process(_cluster(0, ports[:3]))
    first = _Process(_cluster(1, ports[:3]))
    first.wait_for(f"waiting for worker 2 (127.0.0.1:{ports[2]})")
    # It lists other ports for itself, as if it were another machine.
    error = _Process(_cluster(1, [ports[0], ports[3], ports[2]])).outcome()
    assert re.match(r"TF_CONFIG: another process is worker 1 .+ already; give all", str(error))
    stranger = _Process(_cluster(3, ports)).outcome()
    assert re.match(r"TF_CONFIG: the list of worker 0 .+ lacks this machine", str(stranger))
    third = _Process(_cluster(2, ports[:3]))
    assert [process.outcome() for process in (chief, first, third)] == [None] * 3


def test_meeting_ignores_strangers_at_the_chiefs_port() -> None:
    clusters = _clusters(2)
    chief = _Process(clusters[0])
    chief.wait_for(f"waiting for {clusters[1].this}")
    address = ("127.0.0.1", clusters[0].this.port)
    silent = socket.create_connection(address)
    for sent in (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"[]\n", b"[" * 100_000 + b"\n", b"{}\n"):
        with socket.create_connection(address) as stranger:
            stranger.sendall(sent)
    other = _Process(clusters[1])
    assert [process.outcome() for process in (chief, other)] == [None] * 2
    silent.close()


def test_meeting_says_that_another_program_has_the_chiefs_port() -> None:
    clusters = _clusters(2)
    with socket.create_server(("127.0.0.1", clusters[0].this.port)) as server:
        other = _Process(clusters[1])
        connection, _ = server.accept()
        connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
        other.wait_for(
            f"waiting for the chief, {clusters[0].this}, where another program or an earlier "
            f"training answers"
        )
        connection.close()
    chief = _Process(clusters[0])  # it ends, and the training is started again
    assert [process.outcome() for process in (chief, other)] == [None] * 2


def test_meeting_at_a_port_in_use_is_a_sentence() -> None:
    clusters = _clusters(2)
    port = clusters[1].this.port
    with socket.create_server(("127.0.0.1", port)):
        (error,) = _meet(clusters[1])
    assert isinstance(error, UserError)
    assert re.match(
        rf"TF_CONFIG: port {port} of this machine, worker 1 .+: is in use, perhaps by an earlier "
        r"training; end that, or take another port on all machines$",
        str(error),
    )


def test_meeting_of_a_machine_that_is_not_in_the_list_is_a_sentence() -> None:
    (error,) = _meet(_cluster(1, [2222, 2222], host="192.0.2.1"))  # RFC 5737: nobody's
    assert isinstance(error, UserError)
    assert "192.0.2.1 is not an address of this machine; give each machine its own" in str(error)


@pytest.mark.parametrize("place", [0, 1])
def test_meeting_with_an_unknown_host_is_a_sentence(place: int) -> None:
    machines = (Machine("worker", 0, "127.0.0.1", 2222), Machine("worker", 1, "no.invalid", 2222))
    (error,) = _meet(Cluster(machines, place))
    assert isinstance(error, UserError)
    assert "worker 1 (no.invalid:2222): this machine knows no host no.invalid (" in str(error)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("own", [0, 1], ids=["chief", "worker"])
def test_meeting_ends_at_a_signal(project: Path, own: int, number: signal.Signals) -> None:
    code = (
        "import os, sys, _stage\n"
        "from facevae.training.cluster import read_cluster\n"
        "from facevae.training.meeting import meet\n"
        "def stage():\n"
        "    meet(read_cluster(os.environ), dict, stop_requested=_stage.stop_on_signals(),\n"
        "         report=lambda text: print(text, file=sys.stderr, flush=True))\n"
        "_stage.run(stage)\n"
    )
    cluster = _clusters(2)[own]
    config = {"cluster": cluster.jobs, "task": {"type": "worker", "index": own}}
    whom = str(cluster.machines[1]) if own == 0 else f"the chief, {cluster.chief}"
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=project / "stages", text=True, stderr=subprocess.PIPE,
        env={**os.environ, "TF_CONFIG": json.dumps(config)},
    )  # fmt: skip
    assert process.stderr is not None
    assert process.stderr.readline() == f"waiting for {whom}\n"
    process.send_signal(number)
    assert process.communicate(timeout=LIMIT)[1] == (
        f"stopped while waiting for {whom}; the same command again goes on from there\n"
    )
    assert process.returncode == 128 + number
