"""A whole training of one variant: its VAE, its checkpoint, its progress bar, its files."""

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from facevae.common.errors import StoppedError
from facevae.common.files import sync
from facevae.common.machine import (
    device_name,
    library_versions,
    onednn_is_on,
    unused_nvidia_card,
)
from facevae.common.parameters import Parameters
from facevae.common.runtime import enable_determinism, progress_bar
from facevae.model.saving import save_model
from facevae.model.vae import VAE
from facevae.shards.batches import Shards, steps_per_epoch
from facevae.training.checkpoints import Checkpoint, content_digest, state_key
from facevae.training.cluster import Cluster
from facevae.training.devices import own_devices, visible_devices, workers_alive
from facevae.training.loop import train
from facevae.training.meeting import meet
from facevae.training.statistics import recompute_statistics


def run_training(
    parameters: Parameters,
    shards: Shards,
    cluster: Cluster | None,
    *,
    model: Path,
    history: Path,
    states: Path,
    project: Path,
    code: Sequence[str],
    stop_requested: Callable[[], bool],
    is_orphan: Callable[[], bool],
) -> None:
    """Train from the start, or from where an earlier run of the same training stopped.

    The model that is written has statistics of the weights that it keeps; the history's validation
    losses are those of the moving averages, as each epoch ended.

    Of several machines the chief alone writes and shows a progress bar. They begin when all are
    there and are found to train the same.

    Args:
        parameters: those of one variant, see `Parameters.variant`.
        cluster: the machines of this training; None: this one alone, with all its devices.
        model: .keras file to write.
        history: CSV file to write, a row per epoch as it ends.
        states: folder of the states of unfinished trainings, one folder each.
        project, code: what decides the outcome beside the parameters and the images, as
            `content_digest` takes it. With another digest a training starts from the beginning.
        stop_requested: asked while this machine waits for others, or for another process at the
            same training, before the first step, after every batch, and when the model is saved:
            the state is kept then, and the next run is complete at once.
        is_orphan: whether nobody waits for the model any more; the state is kept then.

    Raises:
        UserError, StoppedError: as `facevae.training.loop.train` and
            `facevae.training.meeting.meet`.
    """
    settings = parameters.train
    name = f"Training {model.stem}"

    def say(sentence: str) -> None:
        print(f"{name}: {sentence}", file=sys.stderr, flush=True)

    code_digest = content_digest((), project, code)
    # All shards are read for it, which takes time: beside the building of the networks.
    images_digest = ThreadPoolExecutor(1).submit(
        content_digest,
        [*shards.files("train"), *shards.files("validation")],
        project,
        (),
        stop_requested,
    )
    if cluster is not None:
        meet(
            cluster,
            lambda: _facts(parameters, shards, code_digest, images_digest.result()),
            stop_requested=stop_requested,
            report=say,
        )
    strategy = visible_devices(cluster)
    enable_determinism(settings.seed)
    with workers_alive(strategy), strategy.scope():
        vae = VAE(
            parameters.encoder,
            parameters.decoder,
            parameters.loss,
            image_size=shards.image_size,
            precision=settings.precision,
            seed=settings.seed,
        )
    if cluster is not None and cluster.this != cluster.chief:
        with shards, workers_alive(strategy), open(os.devnull, "w") as nowhere:
            train(vae, shards, settings, history=nowhere, stop_requested=stop_requested)
            recompute_statistics(vae, shards, settings)
        return

    content = code_digest + images_digest.result()
    key = state_key({**vae.get_config(), **settings.model_dump()}, content)
    on = "on" if onednn_is_on() else "off"
    print(f"{name} on {device_name()}, oneDNN {on}", file=sys.stderr)
    if sentence := unused_nvidia_card():
        say(sentence)
    images = settings.epochs * steps_per_epoch(shards, settings.batch_size) * settings.batch_size
    with contextlib.ExitStack() as stack:
        stack.enter_context(shards)
        stack.enter_context(workers_alive(strategy))
        checkpoint = stack.enter_context(
            Checkpoint(
                states / f"{model.stem}-{key}",
                on_wait=say,
                stop_requested=stop_requested,
            )
        )
        history.parent.mkdir(parents=True, exist_ok=True)
        # It may be a link into DVC's cache, which must not be written through.
        history.unlink(missing_ok=True)
        rows = stack.enter_context(open(history, "w", encoding="utf-8"))
        bar: tqdm
        validation: dict[str, str] = {}

        def on_start(images_done: int) -> None:
            nonlocal bar
            bar = stack.enter_context(progress_bar(name, " images", images, images_done))

        def after_step(images_done: int, loss: float) -> None:
            bar.set_postfix({"loss": f"{loss:.1f}", **validation}, refresh=False)
            bar.update(images_done - bar.n)

        def after_epoch(row: dict[str, float]) -> None:
            validation["val_loss"] = f"{row['val_loss']:.1f}"

        kept = train(
            vae,
            shards,
            settings,
            history=rows,
            checkpoint=checkpoint,
            stop_requested=stop_requested,
            on_start=on_start,
            after_step=after_step,
            after_epoch=after_epoch,
        )
        recompute_statistics(vae, shards, settings)
        save_model(vae, model)
        sync(history)
        if settings.early_stopping_patience is not None:
            bar.write(f"{name}: weights of epoch {kept}, the best in validation", sys.stderr)
        if stop_requested():  # while the last epoch ended, or the model was saved
            raise StoppedError("stopped when the training was complete")
        if not is_orphan():
            checkpoint.remove()


def _facts(
    parameters: Parameters, shards: Shards, code_digest: str, images_digest: str
) -> dict[str, Any]:
    """What must be the same on all machines of a training, the best known names first."""
    sections = {
        "encoder": parameters.encoder,
        "decoder": parameters.decoder,
        "loss": parameters.loss,
        "train": parameters.train,
    }
    return {
        **{
            f"{name}.{key}": value
            for name, section in sections.items()
            for key, value in section.model_dump().items()
        },
        "data.image_size": shards.image_size,
        **{f"images in {split}": shards.counts[split] for split in ("train", "validation")},
        "devices": own_devices(),
        **{f"version of {name}": version for name, version in library_versions().items()},
        "digest of the code": code_digest[:12],
        "digest of the images": images_digest[:12],
    }
