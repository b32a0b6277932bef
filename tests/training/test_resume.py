"""Exact resume: a training killed or stopped at any moment gives the bytes of one that was not."""

import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from helpers import heed_interrupts, make_vae, settings, train_settings

from facevae.common.errors import StoppedError, UserError
from facevae.common.locks import try_lock
from facevae.common.runtime import enable_determinism
from facevae.model.saving import save_model
from facevae.shards.batches import Shards, training_batches
from facevae.training.checkpoints import Checkpoint, content_digest, state_key
from facevae.training.loop import train
from facevae.training.session import run_training

pytestmark = pytest.mark.slow

# Processes are forked from one that has imported TensorFlow and run nothing.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["facevae.model.saving", "facevae.training.loop"])


def _train(
    shards: Path,
    folder: Path,
    stop_requested: Callable[[], bool] = lambda: False,
    seconds: float = 0.02,
    precision: str = "float32",
    **changes: Any,
) -> None:
    """Train as the stage does, with frequent checkpoints and every source of randomness."""
    keras.utils.clear_session(free_memory=False)  # names of layers, saved with a model, count up
    enable_determinism(1)
    vae = make_vae(
        image_size=16, filters=[8], kernel_sizes=[3], strides=[4], latent_size=4,
        inter_dense=8, kl_weight=0.1, kl_warmup_epochs=3, dropout=0.1, precision=precision,
    )  # fmt: skip
    folder.mkdir(exist_ok=True)
    with (
        Checkpoint(folder / "states" / "one", seconds) as checkpoint,
        open(folder / "history.csv", "w", encoding="utf-8") as history,
    ):
        small = {"epochs": 6, "batch_size": 8, "learning_rate": 0.003, "precision": precision}
        train(
            vae,
            Shards(shards),
            train_settings(**{**small, **changes}),
            history=history,
            checkpoint=checkpoint,
            stop_requested=stop_requested,
        )
        save_model(vae, folder / "model.keras")
        checkpoint.remove()


def _start(shards: Path, folder: Path) -> BaseProcess:
    process = _PROCESSES.Process(target=_train, args=(shards, folder))
    process.start()
    return process


def _wait_for(condition: Callable[[], object], process: BaseProcess) -> float:
    start = time.monotonic()
    while not condition():
        assert process.is_alive(), "ended too early"
        assert time.monotonic() - start < 60, "waited in vain"
        time.sleep(0.001)  # the processes that are waited for need the core
    return time.monotonic()


def _outcome(folder: Path) -> tuple[bytes, bytes]:
    assert not list((folder / "states").iterdir()), "the state is removed after success"
    return (folder / "model.keras").read_bytes(), (folder / "history.csv").read_bytes()


@pytest.fixture(scope="module")
def uninterrupted(
    shards: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[float, tuple[bytes, bytes]]:
    """The duration of a training in seconds, and the bytes of its model and history."""
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    process = _start(shards, folder)
    start = _wait_for((folder / "history.csv").exists, process)
    process.join()
    return time.monotonic() - start, _outcome(folder)


def test_resume_after_ten_kills(
    shards: Path, tmp_path: Path, uninterrupted: tuple[float, tuple[bytes, bytes]]
) -> None:
    duration, outcome = uninterrupted
    moments = random.Random(1)
    kills = trainings = 0
    while kills < 10:
        folder = tmp_path / str(trainings)
        process = _start(shards, folder)
        process.join(moments.uniform(0, duration))
        if process.is_alive():
            process.kill()
            process.join()
            kills += 1
            print(f"kill {kills} in training {trainings}")
        else:
            assert _outcome(folder) == outcome
            trainings += 1
    process = _start(shards, folder)
    process.join()
    assert _outcome(folder) == outcome


def test_resume_after_a_kill_while_a_checkpoint_is_written(
    shards: Path, tmp_path: Path, uninterrupted: tuple[float, tuple[bytes, bytes]]
) -> None:
    _, outcome = uninterrupted
    state = tmp_path / "states" / "one"
    before: list[Path] = []
    for _ in range(5):
        process = _start(shards, tmp_path)
        _wait_for((state / "checkpoint.npz").exists, process)
        _wait_for(lambda: set(state.glob(".*.tmp-*")) - set(before), process)
        process.kill()
        process.join()
        if before := list(state.glob(".*.tmp-*")):
            break
    assert before, "never killed while writing"
    process = _start(shards, tmp_path)
    process.join()
    assert _outcome(tmp_path) == outcome


@pytest.mark.parametrize("asked", [1, 14], ids=["first step", "validation"])
def test_resume_after_a_stop(
    shards: Path,
    tmp_path: Path,
    uninterrupted: tuple[float, tuple[bytes, bytes]],
    asked: int,
) -> None:
    _, outcome = uninterrupted
    answers = iter([*[False] * (asked - 1), True])
    # It is called after each of six training batches and one validation batch per epoch.
    epoch, step = divmod(asked - 1, 7)
    sentence = f"stopped in epoch {epoch + 1}, after step {min(step + 1, 6)} of 6"
    with pytest.raises(StoppedError, match=sentence):
        _train(shards, tmp_path, lambda: next(answers), seconds=3600)
    rows = (tmp_path / "history.csv").read_text().splitlines()
    assert rows == outcome[1].decode().splitlines()[: 1 + epoch]
    _train(shards, tmp_path)
    assert _outcome(tmp_path) == outcome


@pytest.mark.parametrize(
    ("optimizer", "precision", "parts"),
    [("adam", "float16", 1), ("sgd", "float32", 2), ("adafactor", "float32", 1)],
)
def test_resume_with_schedule_clipping_and_early_stopping(
    shards: Path, tmp_path: Path, optimizer: str, precision: str, parts: int
) -> None:
    changes: dict[str, Any] = {
        "precision": precision, "optimizer": optimizer, "accumulation_steps": parts,
        "epochs": 8, "learning_rate": 0.3, "learning_rate_schedule": "cosine", "warmup_steps": 9,
        "gradient_clip_norm": 5.0, "early_stopping_patience": 2, "ema_momentum": 0.5,
        "horizontal_flips": True,
    }  # fmt: skip
    _train(shards, tmp_path / "whole", **changes)
    epochs = len((tmp_path / "whole" / "history.csv").read_text().splitlines()) - 1
    assert epochs < 8, "it is to stop early"
    asked = 6 + parts  # calls per epoch: six training batches, and `parts` validation batches
    # In a validation, which is that of the averages of the weights, and in the last epoch.
    answers = iter([*[False] * 6, True])
    with pytest.raises(StoppedError, match="stopped in epoch 1, after step 6 of 6"):
        _train(shards, tmp_path / "stopped", lambda: next(answers), **changes)
    answers = iter([*[False] * (parts + asked * (epochs - 2) + 2), True])
    with pytest.raises(StoppedError, match=f"stopped in epoch {epochs}, after step 3 of 6"):
        _train(shards, tmp_path / "stopped", lambda: next(answers), **changes)
    _train(shards, tmp_path / "stopped", **changes)
    assert _outcome(tmp_path / "stopped") == _outcome(tmp_path / "whole")


def test_resume_reads_the_batches_that_were_left(shards: Path) -> None:
    def batches(skip: int) -> list[dict[str, np.ndarray]]:
        dataset = training_batches(
            Shards(shards),
            batch_size=8,
            latent_size=4,
            horizontal_flips=False,
            seed=1,
            epoch=2,
            skip=skip,
        )
        assert len(dataset) == 6 - skip
        return [{key: value.numpy() for key, value in batch.items()} for batch in dataset]

    whole = batches(0)
    for skip in (1, 4, 6):
        for left, expected in zip(batches(skip), whole[skip:], strict=True):
            for key, value in expected.items():
                np.testing.assert_array_equal(left[key], value)


def test_resume_state_has_one_user(tmp_path: Path) -> None:
    told: list[str] = []
    answers = iter([False, True])
    with Checkpoint(tmp_path / "one"):
        second = Checkpoint(
            tmp_path / "one", on_wait=told.append, stop_requested=lambda: next(answers)
        )
        with pytest.raises(StoppedError, match=r"while waiting for the same training"), second:
            pass
        with Checkpoint(tmp_path / "another"):
            pass
    assert len(told) == 1
    owner = rf"\(process {os.getpid()} on .+\)"
    assert re.fullmatch(
        rf"this training is running already {owner}; waiting until it ends", told[0]
    )
    with Checkpoint(tmp_path / "one", on_wait=told.append):
        assert len(told) == 1


def _share(folder: Path, name: str) -> None:
    """The first one works until both others wait; each of these holds the state for a while."""
    told: list[str] = []

    def wait(sentence: str) -> None:
        told.append(sentence)
        (folder / f"{name} waits").touch()

    with Checkpoint(folder / "one", on_wait=wait) as checkpoint:
        found = checkpoint.read() or {"by": np.array(name), "users": np.zeros(0, str)}
        found["users"] = np.append(found["users"], name)
        checkpoint.write(found)
        deadline = time.monotonic() + (60 if name == "first" else 0)
        while len(list(folder.glob("* waits"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.7)
        checkpoint.remove()
        (folder / name).write_text(f"{found['by']} {len(found['users'])} {len(told)}")


def test_resume_state_is_shared_by_those_who_wait(tmp_path: Path) -> None:
    """Three processes at the same training, as queued experiments are: one works, two take it."""
    processes = [
        _PROCESSES.Process(target=_share, args=(tmp_path, name))
        for name in ("first", "second", "third")
    ]
    processes[0].start()
    _wait_for((tmp_path / "one" / "checkpoint.npz").exists, processes[0])
    for process in processes[1:]:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert (tmp_path / "first").read_text() == "first 1 0"
    others = sorted((tmp_path / name).read_text() for name in ("second", "third"))
    assert others == ["first 2 1", "first 3 1"]
    assert not (tmp_path / "one").exists(), "the last one removes it"


def test_resume_from_the_end_of_the_training_that_it_waited_for(
    shards: Path, tmp_path: Path, uninterrupted: tuple[float, tuple[bytes, bytes]]
) -> None:
    """As the first of two that share a training leaves it, because the second waits."""
    _, outcome = uninterrupted
    state = tmp_path / "states" / "one"
    state.mkdir(parents=True)
    turn = try_lock(state / "next")
    assert turn
    _train(shards, tmp_path)
    assert (state / "checkpoint.npz").exists()
    turn.close()
    for name in ("model.keras", "history.csv"):
        (tmp_path / name).unlink()
    _train(shards, tmp_path, lambda: pytest.fail("it trains again"))
    assert _outcome(tmp_path) == outcome


def test_resume_states_are_bounded_in_number(tmp_path: Path) -> None:
    with Checkpoint(tmp_path / "oldest") as oldest:
        oldest.write({"x": np.ones(1)})
        for number in range(12):
            with Checkpoint(tmp_path / f"state-{number}") as checkpoint:
                checkpoint.write({"x": np.full(1, number)})
            os.utime(tmp_path / f"state-{number}", (number, number))
        os.utime(tmp_path / "oldest", (0, 0))
        with Checkpoint(tmp_path / "newest") as newest:
            newest.write({"x": np.ones(1)})
        names = {path.name for path in tmp_path.iterdir()}
    # The oldest is in use; of the others, the newest eight are kept.
    assert names == {"oldest", "newest", *(f"state-{number}" for number in range(5, 12))}


def test_resume_state_that_is_damaged_is_a_sentence(tmp_path: Path) -> None:
    with Checkpoint(tmp_path / "one") as checkpoint:
        checkpoint.write({"x": np.arange(1000)})
        file = tmp_path / "one" / "checkpoint.npz"
        file.write_bytes(file.read_bytes()[:500])
        with pytest.raises(UserError, match=r"checkpoint.npz: is damaged, .+; delete it"):
            checkpoint.read()
        file.unlink()
        os.mkfifo(file)
        with pytest.raises(UserError, match=r"checkpoint.npz: is a named pipe"):
            checkpoint.read()


def test_resume_state_with_a_flipped_byte_is_a_sentence_or_the_same(tmp_path: Path) -> None:
    with Checkpoint(tmp_path / "one") as checkpoint:
        checkpoint.write({"x": np.arange(50)})
        file = tmp_path / "one" / "checkpoint.npz"
        whole = file.read_bytes()
        sentences = 0
        for position in range(0, len(whole), 3):
            content = bytearray(whole)
            content[position] ^= (0x01, 0x08, 0x80)[position % 3]
            file.write_bytes(content)
            try:
                found = checkpoint.read()
            except UserError:
                sentences += 1
                continue
            assert found is not None
            if "x" in found:
                np.testing.assert_array_equal(found["x"], np.arange(50))
    assert sentences > len(whole) / 6


def test_resume_state_of_another_training_is_a_sentence(tmp_path: Path) -> None:
    """A copied file: its arrays may have the same names and shapes."""
    for name in ("one", "another"):
        with Checkpoint(tmp_path / name) as checkpoint:
            checkpoint.write({"x": np.ones(3)})
    os.replace(tmp_path / "another" / "checkpoint.npz", tmp_path / "one" / "checkpoint.npz")
    with (
        Checkpoint(tmp_path / "one") as checkpoint,
        pytest.raises(UserError, match=r"checkpoint.npz: is of another training; delete it"),
    ):
        checkpoint.read()


def test_resume_never_from_a_stranger(tmp_path: Path) -> None:
    data, code = tmp_path / "data", tmp_path / "project" / "package"
    data.write_bytes(b"images")
    code.mkdir(parents=True)
    (code / "code.py").write_bytes(b"print()")

    def key(**settings: int) -> str:
        digest = content_digest([str(data)], tmp_path / "project", ["package"])
        return state_key({"epochs": 2, **settings}, digest)

    first = key()
    assert re.fullmatch("[0-9a-f]{16}", first)
    assert key() == first
    others = {key(epochs=3)}
    data.write_bytes(b"others")
    others.add(key())
    data.write_bytes(b"images")
    (code / "code.py").write_bytes(b"print(1)")
    others.add(key())
    (code / "code.py").write_bytes(b"print()")
    (code / "more.py").write_bytes(b"")
    others.add(key())
    assert len({first} | others) == 5


def test_resume_stop_is_honoured_while_the_data_is_read(tmp_path: Path) -> None:
    """For the key of the state, all shards are read: gigabytes, before the first step."""
    files = [tmp_path / name for name in ("first", "second")]
    for file in files:
        file.write_bytes(b"images")
    answers = iter([False, True])
    with pytest.raises(StoppedError, match="stopped before the first step"):
        content_digest(map(str, files), tmp_path, [], lambda: next(answers))


def test_resume_key_is_the_same_in_every_process(project: Path) -> None:
    """Files with equal names, such as __init__.py, have the same order under every hash seed."""
    code = (
        "import _stage\n"
        "from facevae.training.checkpoints import content_digest\n"
        "print(content_digest([], _stage.PROJECT, _stage.code_of('train')))\n"
    )
    found = {
        subprocess.check_output(
            [sys.executable, "-c", code],
            cwd=project / "stages",
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            text=True,
        )
        for seed in range(4)
    }
    assert len(found) == 1


def test_resume_state_stays_good_when_the_loss_is_not_finite(shards: Path, tmp_path: Path) -> None:
    enable_determinism(1)
    vae = make_vae(image_size=16, filters=[8], kernel_sizes=[3], strides=[4], latent_size=4)
    with Checkpoint(tmp_path / "one", seconds=0) as checkpoint, open(os.devnull, "w") as history:
        # A learning rate that params.yaml would refuse.
        settings = train_settings(epochs=1, batch_size=8).model_copy(update={"learning_rate": 1e20})
        with pytest.raises(UserError, match=r"term is (nan|inf) .*in epoch 1, step \d; try"):
            train(vae, Shards(shards), settings, history=history, checkpoint=checkpoint)
        left = checkpoint.read()
    assert left is not None
    assert all(np.isfinite(value).all() for key, value in left.items() if key != "history")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_resume_sentence_after_a_signal(project: Path, number: signal.Signals) -> None:
    code = (
        "import os, _stage, facevae.common.errors as errors\n"
        "def stage():\n"
        "    stop_requested = _stage.stop_on_signals()\n"
        "    assert not stop_requested()\n"
        f"    os.kill(os.getpid(), {int(number)})\n"
        "    assert stop_requested()\n"
        "    raise errors.StoppedError('stopped in epoch 2, after step 3 of 6')\n"
        "_stage.run(stage)\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=project / "stages", text=True, capture_output=True, check=False,
        preexec_fn=heed_interrupts,
    )  # fmt: skip
    assert done.returncode == 128 + number
    assert done.stderr == (
        "stopped in epoch 2, after step 3 of 6; the same command again goes on from there\n"
    )


class _Order:
    """What was written to the disk, and what was deleted, in order: the names."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        fsync, unlink = os.fsync, Path.unlink

        def noted_fsync(descriptor: int) -> None:
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
            self.names.append(f"sync {path.name}")
            fsync(descriptor)

        def noted_unlink(path: Path, missing_ok: bool = False) -> None:
            self.names.append(f"delete {path.name}")
            unlink(path, missing_ok)

        monkeypatch.setattr(os, "fsync", noted_fsync)
        monkeypatch.setattr(Path, "unlink", noted_unlink)


def test_resume_after_a_stop_while_the_model_is_saved(
    shards: Path, tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stop is honoured, and the next run is complete at once, with the same model.

    The state is deleted when the model, its folder and the history are on the disk.
    """
    small = {"image_size": 16, "filters": [8], "kernel_sizes": [3], "strides": [4]}
    parameters = settings(**small, latent_size=4, epochs=2, batch_size=8)
    model = tmp_path / "models" / "model.keras"

    def run(stop_requested: Callable[[], bool]) -> None:
        keras.utils.clear_session(free_memory=False)  # as in `_train`
        run_training(
            parameters, Shards(shards), None, model=model,
            history=tmp_path / "history.csv", states=tmp_path / "states", project=project, code=[],
            stop_requested=stop_requested, is_orphan=lambda: False,
        )  # fmt: skip

    def saving() -> bool:
        return model.exists() or bool(list(model.parent.glob(".model.keras.tmp-*")))

    with pytest.raises(StoppedError, match="stopped when the training was complete"):
        run(saving)
    saved, history = model.read_bytes(), (tmp_path / "history.csv").read_bytes()
    assert list((tmp_path / "states").glob("*/checkpoint.npz"))
    model.unlink()  # as DVC does
    order = _Order(monkeypatch)
    step = "facevae.training.loop.training_step"
    monkeypatch.setattr(step, lambda *_: lambda *_: pytest.fail("it trains"))
    run(lambda: False)
    assert model.read_bytes() == saved
    assert (tmp_path / "history.csv").read_bytes() == history
    assert not list((tmp_path / "states").iterdir())
    deleted = order.names.index("delete checkpoint.npz")
    for name in ("model.keras", "models", "history.csv"):
        assert f"sync {name}" in order.names[:deleted], order.names
