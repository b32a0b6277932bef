"""Does the extra Dense layer hurt, and with how many units? Over seeds.

For each seed one training without the layer, and one for each number of units. Written are a table
of the differences to no layer with their confidence intervals, and a picture over the Encoder's
parameters and over the estimated peak memory of a training step at batch 128.

The same trainings as experiments of DVC, each with both variants:

    dvc exp run --queue -S data.resize=lanczos -S train.epochs=6 \\
        -S 'encoder.inter_dense=64,128,256,512' -S 'train.seed=1,2,3'
    dvc queue start
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

import facevae.plotting.backend  # noqa: F401

# isort: split
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.harness import MIB, project_parameters, table
from facevae.common.files import atomic_write
from facevae.memory.ledger import ledger
from facevae.plotting.charts import VARIANT_COLOURS
from studies.harness import EPOCHS, Results, Settings, Study, Title, dvc_command, main
from studies.intervals import interval

CONFIDENCE = 0.95
DIRECT = ("direct",)
PARAMETERS = "encoder.params"
PICTURED_BATCH = 128
CANDIDATES: dict[Title, Settings] = {
    DIRECT: {"encoder.inter_dense": 0},
    **{(str(units),): {"encoder.inter_dense": units} for units in (64, 128, 256, 512)},
}


class Quantity(NamedTuple):
    metric: str
    title: str
    digits: int


QUANTITIES = (
    Quantity("test.psnr", "PSNR, dB", 2),
    Quantity("test.ssim", "SSIM", 3),
    Quantity("test.elbo_bits_per_dimension", "bits per dimension", 3),
    Quantity("test.kl", "KL, nats", 1),
    Quantity("samples.swd_real_normalization.mean", "SWD of samples", 0),
    Quantity("samples.frechet_distance", "Frechet distance of samples", 2),
)
IN_PICTURE = (QUANTITIES[0], QUANTITIES[-1])


def differences(results: Results, title: Title, metric: str) -> list[float]:
    """To direct with the same seed, for the seeds that both have."""
    without = {row.seed: row.metrics for row in results.rows.get(DIRECT, ())}
    return [
        row.metrics[metric] - without[row.seed][metric]
        for row in results.rows[title]
        if metric in row.metrics and metric in without.get(row.seed, {})
    ]


def _gap(results: Results, title: Title, quantity: Quantity) -> tuple[bool, str]:
    """Whether the interval leaves out 0; the mean difference ± half the interval."""
    found = differences(results, title, quantity.metric)
    if not found:
        return False, ""
    each, digits = interval(found, CONFIDENCE), quantity.digits
    return abs(each.mean) > each.half, f"{each.mean:+.{digits}f} ± {each.half:.{digits}f}"


def in_words(results: Results) -> list[str]:
    """What the table says, a sentence for each number of units."""
    lines = []
    for title in _layers(results):
        gaps = {quantity.title: _gap(results, title, quantity) for quantity in QUANTITIES}
        seen = [f"{name} by {text}" for name, (clear, text) in gaps.items() if clear]
        unseen = [name for name, (clear, _) in gaps.items() if not clear]
        rest = f" Not distinguishable from 0: {', '.join(unseen)}." if unseen else ""
        lines.append(f"- {title[0]} units change {'; '.join(seen) or 'nothing'}.{rest}")
    return lines


def _layers(results: Results) -> list[Title]:
    """The candidates that can be compared with direct."""
    return [
        title
        for title in results.rows
        if title != DIRECT and differences(results, title, PARAMETERS)
    ]


def report(results: Results) -> list[str]:
    """The lines of the Markdown report."""
    head = ["units", "Encoder parameters", *(quantity.title for quantity in QUANTITIES)]
    columns = ["seeds", *results.origins.columns()]
    levels, gaps = [], []
    for title, rows in results.rows.items():
        means = [(results.mean(title, each.metric), each.digits) for each in QUANTITIES]
        cells = ["" if mean is None else f"{mean:.{digits}f}" for mean, digits in means]
        size = f"{rows[0].metrics[PARAMETERS]:,.0f}"
        levels.append([*title, size, *cells, str(len(rows)), *results.origins.cells(rows)])
    for title in _layers(results):
        found = differences(results, title, PARAMETERS)
        pairs = [*results.rows[title], *results.rows[DIRECT]]
        cells = [_gap(results, title, quantity)[1] for quantity in QUANTITIES]
        gaps.append([*title, f"{found[0]:+,.0f}", *cells, str(len(found)),
                     *results.origins.cells(pairs)])  # fmt: skip
    *_, example = results.settings.values()
    return [
        "# Does the extra Dense layer hurt?",
        "",
        f"Trained with {', '.join(title[0] for title in list(CANDIDATES)[1:])} units in the extra "
        "Dense layer, and without it (direct), with several seeds, for the same number of steps, "
        "and measured on the test split.",
        "",
        f"## What the layer changes: differences to direct, with {CONFIDENCE:.0%} intervals",
        "",
        *table([*head, *columns], gaps),
        "",
        "Each is the mean over the seeds of the difference to direct with the same seed, ± half "
        "its interval by Student's t.",
        "",
        *results.origins.note(),
        "",
        *in_words(results),
        "",
        "## The figures themselves, means over the seeds",
        "",
        *table([*head, *columns], levels),
        "",
        "## The commands",
        "",
        "Each experiment trains both variants; DVC does not train direct again:",
        "",
        "```console",
        dvc_command({**example, "train.seed": 1}),
        "```",
    ]


def _peak(settings: Settings) -> float:
    parameters = project_parameters({**settings, "train.batch_size": PICTURED_BATCH})
    return ledger(parameters).peak / MIB


def save_picture(results: Results, folder: Path, reports: Path) -> None:
    """Points of two quantities over two measures of size: means, and ranges over the seeds."""
    sizes = {
        "Encoder parameters, million": {
            title: rows[0].metrics[PARAMETERS] / 1e6 for title, rows in results.rows.items()
        },
        f"peak of a step at batch {PICTURED_BATCH}, MiB": {
            title: _peak(results.settings[title]) for title in results.rows
        },
    }
    figure = Figure(figsize=(8, 6.5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(
        "The extra Dense layer's units, and none (direct): mean and range over seeds", fontsize=12
    )
    places = figure.subplots(len(IN_PICTURE), len(sizes))
    for row_of_axes, quantity in zip(places, IN_PICTURE, strict=True):
        for axes, (label, size) in zip(row_of_axes, sizes.items(), strict=True):
            for title, rows in results.rows.items():
                values = [row.metrics[quantity.metric] for row in rows
                          if quantity.metric in row.metrics]  # fmt: skip
                if not values:
                    continue
                x, y = size[title], float(np.mean(values))
                variant, shape = ("direct", "D") if title == DIRECT else ("inter_dense", "o")
                colour = VARIANT_COLOURS[variant]
                axes.plot([x, x], [min(values), max(values)], color=colour, linewidth=1)
                axes.plot(x, y, shape, color=colour)
                axes.annotate(title[0], (x, y), (4, 4), textcoords="offset points", fontsize=8)
            axes.margins(0.12)
            axes.set_xlabel(label)
            axes.set_ylabel(quantity.title)
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(color="#dddddd", linewidth=0.8)
            axes.set_axisbelow(True)
    with atomic_write(reports / "inter_dense.png") as temporary:
        # Matplotlib's own entry names its version.
        figure.savefig(temporary, format="png", metadata={"Software": None})


STUDY = Study(
    name="layer_size",
    report_file="inter_dense.md",
    common={"data.resize": "lanczos", "train.epochs": EPOCHS},
    candidates=CANDIDATES,
    seeds=dict.fromkeys(CANDIDATES, 3),
    measure=lambda work, title, seed: work.evaluate(title, seed),
    report=report,
    pictures=save_picture,
)

if __name__ == "__main__":
    main(STUDY, __doc__)
