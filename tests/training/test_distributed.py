"""Several devices or machines give the losses and model of one, and end with a clear message."""

import contextlib
import itertools
import json
import multiprocessing
import os
import re
import signal
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from helpers import free_ports, run_stage, small_vae, train_settings, write_params
from pydantic import BaseModel

import facevae.training.devices
from facevae.common.errors import StoppedError, UserError
from facevae.common.parameters import Decoder, Encoder, Loss, Parameters, Train
from facevae.common.runtime import enable_determinism
from facevae.model.saving import load_model, save_model
from facevae.shards.batches import Shards
from facevae.training.checkpoints import Checkpoint
from facevae.training.cluster import Cluster, Machine, read_cluster
from facevae.training.devices import check_batch_size, visible_devices
from facevae.training.loop import train
from facevae.training.session import _facts
from facevae.training.statistics import recompute_statistics

pytestmark = pytest.mark.slow

# See tests/training/test_resume.py.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["facevae.model.saving", "facevae.training.loop"])


def _train(
    shards: Path,
    folder: Path,
    devices: int,
    config: dict[str, Any],
    network: dict[str, Any],
    settings: dict[str, Any],
    last_step: int | None,
) -> None:
    """Train on `devices` logical CPU devices of this process, one worker of `config`.

    A training that was stopped in this folder goes on. This one is stopped after `last_step`.
    """
    if config:
        os.environ["TF_CONFIG"] = json.dumps(config)
    (processor,) = tf.config.list_physical_devices("CPU")
    logical = [tf.config.LogicalDeviceConfiguration()] * devices
    tf.config.set_logical_device_configuration(processor, logical)
    cluster = read_cluster(os.environ)
    strategy = visible_devices(cluster)
    workers = len(config["cluster"]["worker"]) if config else 1
    assert strategy.num_replicas_in_sync == devices * workers
    enable_determinism(1)
    with strategy.scope():
        vae = small_vae(kl_warmup_epochs=1, **network)
    writes = cluster is None or cluster.this == cluster.chief
    answers = itertools.count(1)  # it is asked after each step
    with contextlib.ExitStack() as stack:
        history = stack.enter_context(open(folder / "history.csv" if writes else os.devnull, "w"))
        small = {"epochs": 2, "batch_size": 8, "learning_rate": 0.001, "gradient_clip_norm": 20.0}
        stopped = pytest.raises(StoppedError) if last_step else contextlib.nullcontext()
        checkpoint = Checkpoint(folder / "state") if writes else None
        if checkpoint:
            stack.enter_context(checkpoint)
        asked = train_settings(**{**small, **settings})
        with stopped:
            train(
                vae,
                Shards(shards),
                asked,
                history=history,
                checkpoint=checkpoint,
                stop_requested=lambda: next(answers) == last_step,
            )
    if not last_step:
        recompute_statistics(vae, Shards(shards), asked)
    if writes and not last_step:
        save_model(vae, folder / "model.keras")


def _outcome(folder: Path) -> tuple[np.ndarray, list[np.ndarray]]:
    history = np.loadtxt(folder / "history.csv", delimiter=",", skiprows=1)
    return history, load_model(folder / "model.keras").get_weights()


def _run(
    shards: Path,
    folder: Path,
    devices: int = 1,
    workers: int = 1,
    settings: dict[str, Any] | None = None,
    last_step: int | None = None,
    **network: Any,
) -> None:
    """Train on `devices` devices of each of `workers` workers."""
    folder.mkdir(exist_ok=True)
    configs: list[dict[str, Any]] = [{}]
    if workers > 1:
        ports = free_ports(workers)
        configs = [_config(index, ports) for index in range(workers)]
    processes = [
        _PROCESSES.Process(
            target=_train,
            args=(shards, folder, devices, config, network, settings or {}, last_step),
        )
        for config in configs
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
        assert process.exitcode == 0


def _assert_same_training(folder: Path, reference: Path) -> None:
    """The same losses and weights up to rounding."""
    (history, weights), (expected, expected_weights) = map(_outcome, (folder, reference))
    np.testing.assert_allclose(history, expected, rtol=1e-5)
    for weight, other in zip(weights, expected_weights, strict=True):
        # Adam's steps are of 0.001, also where a gradient is little more than a rounding error.
        np.testing.assert_allclose(weight, other, rtol=0, atol=3e-5)


def _config(index: int, ports: list[int]) -> dict[str, Any]:
    workers = [f"127.0.0.1:{port}" for port in ports]
    return {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}


NETWORK: dict[str, Any] = {"batch_normalization": True, "dropout": 0.2}
ONE_LAYER: dict[str, Any] = {"filters": [8], "kernel_sizes": [3], "strides": [4]}


@pytest.fixture(scope="module")
def one_device(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one") / "device"
    _run(shards, folder, **NETWORK)
    return folder


@pytest.mark.parametrize(
    "split", [{"devices": 2}, {"workers": 2}], ids=["two devices", "two workers"]
)
def test_distributed_is_the_same_training(
    shards: Path, tmp_path: Path, one_device: Path, split: dict[str, Any]
) -> None:
    _run(shards, tmp_path, **split, **NETWORK)
    _assert_same_training(tmp_path, one_device)


@pytest.mark.parametrize(
    ("settings", "network"),
    [
        ({"optimizer": "adafactor", "learning_rate": 0.01, "ema_momentum": 0.5}, {}),
        (
            {"accumulation_steps": 2, "rematerialization": True},
            {"reconstruction": "gaussian", "free_bits": 0.5},
        ),
    ],
    ids=["adafactor", "all that is off by default"],
)
def test_distributed_is_the_same_training_with_other_settings(
    shards: Path, tmp_path: Path, settings: dict[str, Any], network: dict[str, Any]
) -> None:
    for devices in (1, 2):
        folder = tmp_path / f"{devices}"
        _run(shards, folder, devices, settings=settings, dropout=0.2, **ONE_LAYER, **network)
    _assert_same_training(tmp_path / "2", tmp_path / "1")


@pytest.mark.parametrize(
    ("first", "then", "last_step"),
    [({"devices": 2}, {}, 3), ({}, {"devices": 2}, 9)],
    ids=["two, then one", "one, then two"],
)
def test_distributed_resume_on_another_number_of_devices_is_the_same_training(
    shards: Path,
    tmp_path: Path,
    one_device: Path,
    first: dict[str, Any],
    then: dict[str, Any],
    last_step: int,
) -> None:
    _run(shards, tmp_path, **first, last_step=last_step, **NETWORK)
    assert (tmp_path / "state" / "checkpoint.npz").exists()
    _run(shards, tmp_path, **then, **NETWORK)
    _assert_same_training(tmp_path, one_device)


def _connect_alone(log: Path) -> None:
    machines = tuple(
        Machine("worker", index, "127.0.0.1", port) for index, port in enumerate(free_ports(2))
    )
    with open(log, "w") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    facevae.training.devices._CONNECT_SECONDS = 1
    visible_devices(Cluster(machines, 0))


def test_distributed_machine_that_dies_while_tensorflow_connects_is_a_sentence(
    tmp_path: Path,
) -> None:
    """TensorFlow would wait for ever; no Python code of that process can run meanwhile."""
    log = tmp_path / "log"
    process = _PROCESSES.Process(target=_connect_alone, args=(log,))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert re.search(
        r"^TF_CONFIG: TensorFlow on worker 0 \(127.0.0.1:\d+\) could not connect to the other "
        r"machines; start all of them again$",
        log.read_text(),
        re.MULTILINE,
    )


def test_distributed_machines_compare_all_that_decides_a_training(
    shards: Path, parameters: Parameters
) -> None:
    facts = _facts(parameters.variant("inter_dense"), Shards(shards), "", "")
    sections: dict[str, type[BaseModel]] = {
        "encoder": Encoder, "decoder": Decoder, "loss": Loss, "train": Train,
    }  # fmt: skip
    keys = {f"{name}.{key}" for name, section in sections.items() for key in section.model_fields}
    assert keys <= facts.keys()


def test_distributed_batch_must_split_evenly() -> None:
    class ThreeDevices:
        num_replicas_in_sync = 3

    with pytest.raises(UserError, match=r"train.batch_size: 8 images .+ over 3 devices"):
        check_batch_size(ThreeDevices(), 8, accumulation_steps=1)
    both = r"12 images .+ over 3 devices and into 8 parts \(train.acc.+; take a multiple of 24"
    with pytest.raises(UserError, match=both):
        check_batch_size(ThreeDevices(), 12, accumulation_steps=8)
    check_batch_size(ThreeDevices(), 24, accumulation_steps=8)


ENCODER: dict[str, Any] = {
    **ONE_LAYER, "latent_size": 4, "inter_dense": 8, "batch_normalization": False
}  # fmt: skip


class _Stage:
    """The stage `train` of one machine, in a process forked from one with TensorFlow.

    It works in `place`, where params.yaml is, and puts the model and the history in `folder`.
    Another machine that dies is noticed sooner than in a user's training.
    """

    def __init__(self, place: Path, shards: Path, folder: str, config: dict[str, Any]) -> None:
        self._errors = place / f"errors-{uuid.uuid4()}"
        arguments = place, self._errors, shards, folder, config
        self.process = _PROCESSES.Process(target=_run_stage, args=arguments)
        self.process.start()

    def end(self, seconds: float) -> tuple[int | None, str]:
        """Its exit status and what it has written to standard error; it is killed if it is late."""
        self.process.join(seconds)
        self.process.kill()
        self.process.join()
        return self.process.exitcode, self._errors.read_text()


def _run_stage(
    place: Path, errors: Path, shards: Path, folder: str, config: dict[str, Any]
) -> None:
    with open(errors, "w") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    os.chdir(place)
    os.environ["TF_CONFIG"] = json.dumps(config)
    facevae.training.devices._HEARTBEAT_SECONDS = 10
    options = ["--model", f"{folder}/m.keras", "--history", f"{folder}/history.csv"]
    sys.exit(run_stage("train", "--shards", shards, "--variant", "inter_dense", *options))


def test_distributed_machines_that_differ_in_one_key_say_so_and_train_nothing(
    shards: Path, tmp_path: Path
) -> None:
    ports = free_ports(2)
    stages = []
    for index, learning_rate in enumerate([0.001, 0.002]):
        place = tmp_path / f"machine-{index}"
        place.mkdir()
        write_params(place, encoder=ENCODER, train={"learning_rate": learning_rate})
        stages.append(_Stage(place, shards, "out", _config(index, ports)))
    sentence = (
        f"train.learning_rate: worker 1 (127.0.0.1:{ports[1]}) has 0.002, the chief 0.001; all "
        f"machines must train the same: give them the same parameters, code, images and "
        f"libraries, and start all again"
    )
    for stage in stages:
        status, message = stage.end(180)
        assert status == 2, message
        *waiting, last = message.splitlines()
        assert last == sentence
        assert all(line.startswith("Training m: waiting for ") for line in waiting), message
    assert not list(tmp_path.glob("*/out"))


def test_distributed_resumes_after_a_worker_has_died_and_one_was_told_to_stop(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one machine completes a training that two have begun."""
    training = {"batch_size": 8, "epochs": 15, "learning_rate": 1e-4}
    write_params(tmp_path, encoder=ENCODER, train=training)

    def start_two() -> list[_Stage]:
        ports = free_ports(2)
        return [_Stage(tmp_path, shards, "two", _config(index, ports)) for index in range(2)]

    def epochs() -> int:
        try:
            return len((tmp_path / "two" / "history.csv").read_text().splitlines()) - 1
        except FileNotFoundError:  # not begun, or about to be written again
            return 0

    def wait_for_epoch(number: int, stages: list[_Stage]) -> None:
        while epochs() < number and all(stage.process.is_alive() for stage in stages):
            time.sleep(0.02)

    chief, other = start_two()
    wait_for_epoch(3, [chief, other])
    other.process.kill()
    status, message = chief.end(60)
    assert epochs() >= 3, message
    assert status == 2, message
    assert "another worker of TF_CONFIG's cluster is gone" in message
    assert "Traceback" not in message
    reached = epochs()
    assert reached < 15

    chief, other = start_two()
    wait_for_epoch(reached + 1, [chief, other])
    other.process.terminate()
    for stage in (chief, other):
        status, message = stage.end(60)
        assert status == 128 + signal.SIGTERM, message
        assert re.search(r"^stopped in epoch .+ goes on from there$", message, re.MULTILINE)
        assert "Traceback" not in message
        assert ("images/s" in message) == (stage is chief), "the chief alone shows a bar"
    assert epochs() < 15

    monkeypatch.chdir(tmp_path)
    for folder in ("two", "one"):
        options = ["--model", f"{folder}/m.keras", "--history", f"{folder}/history.csv"]
        assert run_stage("train", "--shards", shards, "--variant", "inter_dense", *options) == 0
    found, expected = (
        np.loadtxt(tmp_path / name / "history.csv", delimiter=",", skiprows=1)
        for name in ("two", "one")
    )
    assert len(found) == 15
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6)
    weights = [load_model(tmp_path / name / "m.keras").get_weights() for name in ("two", "one")]
    for weight, other in zip(*weights, strict=True):
        np.testing.assert_allclose(weight, other, rtol=0, atol=1e-5)
