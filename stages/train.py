"""Train one variant of the VAE and write the model and its history."""

from _stage import arguments, load_tensorflow, progress_bar, run


def main() -> None:
    options, parameters = arguments(
        __doc__,
        shards={"help": "folder that the prepare stage wrote"},
        inter_dense={"type": int, "help": "units of the extra Dense layer; 0 for none"},
        model={"help": ".keras file to write"},
        history={"help": "CSV file to write, a row per epoch as it ends"},
    )

    load_tensorflow()
    from facevae.datasets import Shards, steps_per_epoch
    from facevae.determinism import make_repeatable
    from facevae.model_files import save_model
    from facevae.training import build_vae, train

    training = parameters.train
    make_repeatable(training.seed)
    shards = Shards(options.shards)
    vae = build_vae(
        parameters.encoder,
        parameters.loss,
        image_size=shards.image_size,
        inter_dense=options.inter_dense,
    )
    images = training.epochs * steps_per_epoch(shards, training.batch_size) * training.batch_size
    options.history.parent.mkdir(parents=True, exist_ok=True)
    # It may be a link into DVC's cache, which must not be written through.
    options.history.unlink(missing_ok=True)
    with (
        open(options.history, "w", encoding="utf-8") as history,
        progress_bar(f"Training {options.model.stem}", " images", images) as bar,
    ):
        validation: dict[str, str] = {}

        def after_step(images_done: int, loss: float) -> None:
            bar.set_postfix({"loss": f"{loss:.1f}", **validation}, refresh=False)
            bar.update(images_done - bar.n)

        def after_epoch(row: dict[str, float]) -> None:
            validation["val_loss"] = f"{row['val_loss']:.1f}"

        train(
            vae,
            shards,
            epochs=training.epochs,
            batch_size=training.batch_size,
            learning_rate=training.learning_rate,
            kl_warmup_epochs=parameters.loss.kl_warmup_epochs,
            seed=training.seed,
            history=history,
            after_step=after_step,
            after_epoch=after_epoch,
        )
    save_model(vae, options.model)


if __name__ == "__main__":
    run(main)
