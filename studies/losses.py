"""Which loss, schedule and prior make the best plain VAE: measured at equal steps.

Every candidate is the variant with the extra Dense layer, trained for the same number of steps;
the last one is the same networks in pythae, at that library's learning rate. One piece of code
measures them all, on the validation split.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from benchmarks.harness import project_parameters, table
from facevae.common.runtime import enable_determinism, load_tensorflow
from studies.harness import Results, Settings, Study, Title, Work, dvc_command, main
from studies.measurements import (
    check_peers,
    made_by,
    made_by_pythae,
    reconstruction_metrics,
    reference,
    sample_metrics,
)

PRIORS = ("normal", "gaussian", "mixture")
BATCH = 16
EPOCHS = 4  # 53,888 images
UNITS = 256

LEARNED = {"loss.reconstruction": "gaussian", "loss.sigma": "learned"}
LOSSES: dict[str, Settings] = {
    "mse, weight 1": {"loss.reconstruction": "mse"},
    "sigma 0.3": {"loss.reconstruction": "gaussian", "loss.sigma": 0.3},
    "sigma 0.1": {"loss.reconstruction": "gaussian", "loss.sigma": 0.1},
    "sigma learned": LEARNED,
    "sigma learned, KL warm-up": {**LEARNED, "loss.kl_warmup_epochs": 2},
    "sigma learned, free bits": {**LEARNED, "loss.free_bits": 1.0},
    "sigma learned, constant rate": {**LEARNED, "train.learning_rate_schedule": "constant"},
    "the series: bce, weight 15": {"loss.reconstruction": "bce", "loss.kl_weight": 15.0},
    "Keras' example: bce, weight 1": {"loss.reconstruction": "bce", "loss.kl_weight": 1.0},
}
PYTHAE_RATE = 1e-4  # its default, constant
PYTHAE = (f"pythae's VAE at its rate of {PYTHAE_RATE:g}", "normal")
FLOOR = ("fresh real images", "the test split")

DEFAULT = "sigma learned"
# As published they draw from N(0, I).
PUBLISHED = ("the series: bce, weight 15", "Keras' example: bce, weight 1", PYTHAE[0])

CANDIDATES: dict[Title, Settings] = {
    **{
        (loss, prior): {**settings, "generate.prior": prior}
        for loss, settings in LOSSES.items()
        for prior in PRIORS
    },
    # No parameters: what they stand for is not trained by the train stage.
    PYTHAE: {"peer": "pythae"},
    FLOOR: {"peer": "test split"},
}


class Column(NamedTuple):
    metric: str
    title: str
    form: str
    best: Callable[[Iterable[float]], float] | None  # None: no value is better by itself
    headline: bool = False


COLUMNS = (
    Column("bits_per_dimension", "bits per dimension", ".3f", min, headline=True),
    Column("kl", "KL, nats", ",.0f", None),
    Column("psnr", "PSNR, dB", ".2f", max, headline=True),
    Column("swd", "SWD", ".0f", min, headline=True),
    Column("frechet_distance", "Frechet distance", ".2f", min, headline=True),
    Column("precision", "precision", ".2f", max),
    Column("recall", "recall", ".2f", max),
    Column("sharpness", "sharpness", ".3f", max),
)


def measure(work: Work, title: Title, seed: int) -> Mapping[str, Any]:
    """Metrics of a loss and a prior; a grid of samples stays beside the model."""
    check_peers("make study-losses")
    load_tensorflow()
    from facevae.plotting.grids import save_grid
    from facevae.shards.batches import Shards, load_images
    from facevae.shards.subsets import random_subset

    enable_determinism(0)
    held_out, network = reference(work.shards, work.attributes)
    if title == FLOOR:
        fresh = load_images(Shards(work.shards), "test")
        count = min(len(fresh), len(held_out))
        fresh, held_out = (
            images[random_subset(len(images), count)] for images in (fresh, held_out)
        )
        return sample_metrics(fresh, held_out, network)
    if title == PYTHAE:
        made = made_by_pythae(
            work, held_out, work.settings[PYTHAE], seed,
            learning_rate=PYTHAE_RATE, resize_layers=0, prior="normal",
        )  # fmt: skip
    else:
        folder, prior = work.train(title, seed), title[1]
        made = made_by(folder / "model.keras", work.shards, held_out, prior)
        shown = made.samples[: len(made.samples) // 10 * 10][:40]
        save_grid(shown, 10, folder / f"samples-{prior}.png")
    return {
        **reconstruction_metrics(made, held_out),
        "kl": float(made.kl.mean()),
        **sample_metrics(made.samples, held_out, network),
    }


def in_words(results: Results, prior: str) -> list[str]:
    """The default beside what is published, in each headline metric."""
    lines = []
    for name in PUBLISHED:
        pair = ((DEFAULT, prior), (name, "normal"))
        if not all(title in results.rows for title in pair):
            continue
        gaps, ahead = [], 0
        for column in filter(lambda column: column.headline, COLUMNS):
            ours, theirs = (results.mean(title, column.metric) or 0.0 for title in pair)
            ahead += column.best is not None and column.best((ours, theirs)) == ours
            gaps.append(f"{column.title} {ours:{column.form}} to {theirs:{column.form}}")
        lines.append(f"- Ahead of {name} in {ahead} of {len(gaps)}: {', '.join(gaps)}.")
    return lines


def _cell(results: Results, title: Title, column: Column) -> str:
    """A mean, bold if it is the best of the candidates'; the floor is none."""
    value = results.mean(title, column.metric)
    if value is None:
        return ""
    cell = f"{value:{column.form}}"
    if column.best is None or title == FLOOR:
        return cell
    rivals = (results.mean(each, column.metric) for each in results.rows if each != FLOOR)
    best = column.best(rival for rival in rivals if rival is not None)
    return f"**{cell}**" if value == best else cell


def report(results: Results) -> list[str]:
    """The lines of the Markdown report."""
    prior = project_parameters({}).generate.prior
    lines = []
    for title, rows in results.rows.items():
        name = [f"**{cell}**" for cell in title] if title == (DEFAULT, prior) else title
        cells = [_cell(results, title, column) for column in COLUMNS]
        lines.append([*name, *cells, str(len(rows)), *results.origins.cells(rows)])
    head = ["loss", "samples from", *(column.title for column in COLUMNS), "seeds",
            *results.origins.columns()]  # fmt: skip
    common = results.settings[PYTHAE]
    return [
        "# Which loss, and which prior?",
        "",
        f"The variant with {UNITS} units in the extra Dense layer, trained with each loss for "
        f"{common['train.epochs']} epochs of batch {common['train.batch_size']}, and measured on "
        "the validation split. All else is as in params.yaml. The last three losses are what "
        "others publish: the weighting of the series of posts (its `fact` 5), that of Keras' "
        "example, and the same networks in pythae with all of that library's defaults, its "
        "constant learning rate among them. Values are means over the seeds, of which the column "
        "`seeds` gives the number. The row of the default is bold, and so is the best of each "
        "column.",
        "",
        *table(head, lines, text=2),
        "",
        "Bits per dimension are those of a Gaussian Decoder with the sigma that is best for each "
        "row, so that they compare; they and the KL are those of N(0, I), whatever samples are "
        "drawn from. SWD is in the real images' normalisation.",
        "",
        *results.origins.note(),
        "",
        "In plain words:",
        "",
        *in_words(results, prior),
        "",
        "```console",
        *(
            f"{dvc_command(results.settings[loss, prior])}   # {loss}"
            for loss in LOSSES
        ),
        "```",
    ]  # fmt: skip


STUDY = Study(
    name="losses",
    report_file="defaults.md",
    common={
        "encoder.inter_dense": UNITS,
        "train.batch_size": BATCH,
        "train.epochs": EPOCHS,
    },
    candidates=CANDIDATES,
    seeds={title: 3 for title in CANDIDATES if title[0] in (DEFAULT, *PUBLISHED)},
    measure=measure,
    report=report,
)

if __name__ == "__main__":
    main(STUDY, __doc__)
