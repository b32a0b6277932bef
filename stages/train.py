"""Train one variant of the VAE and write the model and its history."""

import contextlib
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tqdm import tqdm

from _stage import PROJECT, arguments, code_of, run, state_folder, stop_on_signals
from facevae.common.runtime import load_tensorflow, progress_bar


def main() -> None:
    options, parameters = arguments(
        __doc__,
        shards={"help": "folder that the prepare stage wrote"},
        inter_dense={"type": int, "help": "units of the extra Dense layer; 0 for none"},
        model={"help": ".keras file to write"},
        history={"help": "CSV file to write, a row per epoch as it ends"},
    )
    caller = os.getppid()

    load_tensorflow()
    from facevae.common.runtime import enable_determinism
    from facevae.model.saving import save_model
    from facevae.model.vae import build_vae
    from facevae.shards.batches import Shards, steps_per_epoch
    from facevae.training.checkpoints import Checkpoint, content_digest, state_key
    from facevae.training.devices import is_chief, visible_devices, workers_alive
    from facevae.training.loop import train

    training = parameters.train
    shards = Shards(options.shards)
    settings: dict[str, Any] = {
        "epochs": training.epochs,
        "batch_size": training.batch_size,
        "accumulation_steps": training.accumulation_steps,
        "rematerialization": training.rematerialization,
        "optimizer": training.optimizer,
        "learning_rate": training.learning_rate,
        "learning_rate_schedule": training.learning_rate_schedule,
        "warmup_steps": training.warmup_steps,
        "gradient_clip_norm": training.gradient_clip_norm,
        "early_stopping_patience": training.early_stopping_patience,
        "kl_warmup_epochs": parameters.loss.kl_warmup_epochs,
        "seed": training.seed,
    }
    # All shards are read for it, which takes time: beside the building of the networks.
    content = ThreadPoolExecutor(1).submit(
        content_digest,
        data=[*shards.files("train"), *shards.files("validation")],
        project=PROJECT,
        code=code_of("train"),
    )
    strategy = visible_devices()
    stop_requested = stop_on_signals()  # not before: with TF_CONFIG, TensorFlow takes SIGTERM
    enable_determinism(training.seed)
    with strategy.scope():
        vae = build_vae(
            parameters.encoder,
            parameters.loss,
            image_size=shards.image_size,
            inter_dense=options.inter_dense,
            precision=training.precision,
        )
    if not is_chief(strategy):
        with workers_alive(strategy), open(os.devnull, "w") as history:
            train(vae, shards, **settings, history=history, stop_requested=stop_requested)
        return

    name = f"Training {options.model.stem}"
    images = training.epochs * steps_per_epoch(shards, training.batch_size) * training.batch_size
    key = state_key({**vae.get_config(), **settings}, content.result())
    state = state_folder() / "checkpoints" / f"{options.model.stem}-{key}"
    with contextlib.ExitStack() as stack:
        stack.enter_context(shards)
        stack.enter_context(workers_alive(strategy))
        checkpoint = stack.enter_context(Checkpoint(state))
        options.history.parent.mkdir(parents=True, exist_ok=True)
        # It may be a link into DVC's cache, which must not be written through.
        options.history.unlink(missing_ok=True)
        history = stack.enter_context(open(options.history, "w", encoding="utf-8"))
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
            **settings,
            history=history,
            checkpoint=checkpoint,
            stop_requested=stop_requested,
            on_start=on_start,
            after_step=after_step,
            after_epoch=after_epoch,
        )
        save_model(vae, options.model)
        if training.early_stopping_patience is not None:
            bar.write(f"{name}: weights of epoch {kept}, the best in validation", sys.stderr)
        # An orphan's model is deleted by whoever runs the stage next: DVC has not noted it.
        if os.getppid() == caller:
            checkpoint.remove()


if __name__ == "__main__":
    run(main)
