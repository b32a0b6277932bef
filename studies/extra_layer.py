"""Does the extra Dense layer hurt?

The design was written before the first main training, and is not changed after it.

Question: what does the extra layer of 256 units cost in quality, at equal images seen?

Primary figure: the ELBO of the test split in bits per dimension, under a Gaussian prior that is
fitted to the training codes. The layer's cost is this figure with the layer minus without it, of
two trainings with the same seed; positive is worse.

Margin: 0.016 bits, which are about 0.1 dB. Test: the paired 90 % interval of the cost by Student's
t. If its upper end is below the margin, the layer is "no worse"; if both ends are within it,
the two are "equivalent". The cost with its 95 % interval is given in any case.

Learning rates: for each network the best of three on the validation split, in a pilot of its own
(`studies.extra_layer_pilot`).

Parts, each training with 13,472 images an epoch in batches of 16:

    main      without the layer, and with 256 units: eight seeds, 12 epochs (161,664 images, 10,104
              steps). Eight, whatever is seen on the way.
    control   512 units, three seeds: they contain every Encoder without the layer, so what they
              lose is lost by optimisation and not by capacity. No layer with latent size 175, three
              seeds: it has the weights of 256 units, and asks whether the layer is the cheapest way
              to shed them. Both against the first three seeds without the layer.
    steps     without the layer and with 256 units: 3 epochs (40,416 images), three seeds, and 36
              epochs (484,992 images), one seed: does the gap close? The last is the first to be
              dropped.

Secondary figures: PSNR; rate and distortion; the share of reconstructions that are the same person;
of samples, from N(0, I), which the post speaks of, and from the fitted prior, five draws each, the
share with a face and the Frechet distance on descriptors; and the primary figure and PSNR of each
source, CelebA and Labeled Faces in the Wild. Several networks are compared with the one without the
layer by Dunnett's procedure.
"""

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import facevae.plotting.backend  # noqa: F401

# isort: split
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.harness import table
from facevae.common.files import atomic_write
from facevae.common.parameters import VARIANTS
from facevae.common.requests import check_face_packages
from facevae.common.runtime import enable_determinism, load_tensorflow
from facevae.plotting.charts import VARIANT_COLOURS
from studies.extra_layer_pilot import COMMON, NETWORKS
from studies.harness import Results, Settings, Study, Title, Work, dvc_command, main, place
from studies.intervals import Interval, dunnett, interval, verdict
from studies.measurements import image_metrics
from studies.rows import Row

if TYPE_CHECKING:
    from facevae.evaluation.inputs import Inputs
    from facevae.latent.priors import Prior

MARGIN = 0.016  # bits per dimension
TEST_CONFIDENCE, CONFIDENCE = 0.90, 0.95
EPOCHS, SHORT, LONG = 12, 3, 36
IMAGES_OF_AN_EPOCH = 13_472
SEEDS, CONTROL_SEEDS = 8, 3

# Chosen by the pilot; a test holds them against its rows.
RATES: dict[str, float] = {
    "direct": 0.0003,
    "256 units": 0.001,
    "512 units": 0.0003,
    "latent size 175": 0.0003,
}
WITHOUT, WITH = "direct", "256 units"
SHOWN = 32  # samples of the longest trainings


def _settings(network: str, epochs: int) -> Settings:
    return {
        **NETWORKS[network],
        "train.epochs": epochs,
        "train.learning_rate": RATES[network],
    }


CANDIDATES: dict[Title, Settings] = {
    **{("main", network, str(EPOCHS)): _settings(network, EPOCHS) for network in (WITHOUT, WITH)},
    **{
        ("control", network, str(EPOCHS)): _settings(network, EPOCHS)
        for network in ("512 units", "latent size 175")
    },
    **{
        ("steps", network, str(epochs)): _settings(network, epochs)
        for epochs in (SHORT, LONG)
        for network in (WITHOUT, WITH)
    },
}
_SEEDS = {"main": SEEDS, "control": CONTROL_SEEDS, "steps": CONTROL_SEEDS}


class Quantity(NamedTuple):
    metric: str
    title: str
    digits: int
    better: str = ""  # "higher" or "lower"; empty: neither is better by itself
    faces: str = ""  # of a distance of as many faces as are found: the share with a face


PRIMARY = Quantity(
    "test.elbo_bits_per_dimension_under_prior",
    "bits per dimension under the fitted prior",
    4,
    "lower",
)
PSNR = Quantity("test.psnr", "PSNR, dB", 2, "higher")
QUANTITIES = (
    PRIMARY,
    PSNR,
    Quantity("test.elbo_bits_per_dimension", "bits per dimension under N(0, I)", 4, "lower"),
    Quantity("test.rate_under_prior", "rate under the fitted prior, nats", 1),
    Quantity("test.distortion", "distortion, nats", 1, "lower"),
    Quantity("test.same_person", "reconstructions of the same person, share", 3, "higher"),
    Quantity("samples.face_share", "samples with a face, fitted prior, share", 3, "higher"),
    Quantity(
        "samples.face_frechet_distance",
        "Frechet distance on descriptors, fitted prior",
        4,
        "lower",
        "samples.face_share",
    ),
    Quantity("samples_normal.face_share", "samples with a face, N(0, I), share", 3, "higher"),
    Quantity(
        "samples_normal.face_frechet_distance",
        "Frechet distance on descriptors, N(0, I)",
        4,
        "lower",
        "samples_normal.face_share",
    ),
    Quantity("celeba.bits", "CelebA: bits per dimension under the fitted prior", 4, "lower"),
    Quantity("celeba.psnr", "CelebA: PSNR, dB", 2, "higher"),
    Quantity("lfw.bits", "LFW: bits per dimension under the fitted prior", 4, "lower"),
    Quantity("lfw.psnr", "LFW: PSNR, dB", 2, "higher"),
)


def evaluated(inputs: "Inputs") -> dict[str, dict[str, float]]:
    """What the design names of all that `facevae.evaluation.evaluate` measures, as it does.

    Left out are sliced Wasserstein distances of ten sets of samples, which take as long as all of
    this. What is not defined is left out, too.
    """
    from facevae.evaluation.face_metrics import FacesOfSamples, ReconstructedFaces
    from facevae.evaluation.feature_metrics import AttributeFeatures
    from facevae.evaluation.image_metrics import ReconstructionQuality
    from facevae.evaluation.inputs import real_sets, reconstructed_batches, sample_sets
    from facevae.evaluation.likelihood import LossTerms, RateAndDistortion

    families = (LossTerms, ReconstructionQuality, ReconstructedFaces, RateAndDistortion)
    of_test_split = [family(inputs) for family in families]
    for batch in reconstructed_batches(inputs):
        for each in of_test_split:
            each.update(batch)
    sets = real_sets(inputs)
    count = len(sets.real)
    of_samples = [AttributeFeatures(sets), FacesOfSamples(sets)]

    def mean_over_draws(prior: "Prior | None") -> dict[str, float]:
        draws = [
            dict(_items(each.of(images) for each in of_samples))
            for images in sample_sets(inputs, prior, count)
        ]
        values = {name: [draw[name] for draw in draws] for name in draws[0]}
        means = {name: statistics.fmean(each) for name, each in values.items() if None not in each}
        return {"count": count, **means}

    return {
        "test": dict(_items(each.result() for each in of_test_split)),
        "samples": mean_over_draws(inputs.fitted_prior),
        "samples_normal": mean_over_draws(None),
        "real_images": dict(_items(each.of(sets.reference) for each in of_samples)),
    }


def _items(metrics: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
    return (item for each in metrics for item in each.items())


def measure(work: Work, title: Title, seed: int) -> Mapping[str, Any]:
    """What `evaluated` does, and bits and PSNR of each source."""
    check_face_packages()
    load_tensorflow()
    from facevae.evaluation.attribute_classifier import load_classifier
    from facevae.evaluation.inputs import Inputs
    from facevae.latent.generation import samples
    from facevae.latent.priors import prior_of_dataset
    from facevae.model.saving import load_model
    from facevae.shards.batches import Shards, load_images

    enable_determinism(0)
    parameters, folder = work.parameters(title, seed), work.train(title, seed)
    vae, shards = load_model(folder / "model.keras"), Shards(work.shards)
    prior = prior_of_dataset(parameters.generate.prior, vae, shards)
    classifier = load_classifier(work.attributes)
    batch_size = parameters.train.batch_size
    metrics = evaluated(Inputs(vae, shards, batch_size, prior, classifier, None, faces=True))
    found = image_metrics(vae, prior, load_images(shards, "test"))
    # Of the faces of LFW no label is known.
    celeba = shards.labels("test").any(axis=1)
    sources = {
        name: {"bits": float(found.bits[chosen].mean()), "psnr": float(found.psnr[chosen].mean())}
        for name, chosen in (("celeba", celeba), ("lfw", ~celeba))
        if chosen.any()
    }
    np.save(folder / "shown.npy", samples(vae, SHOWN, 1, prior))
    return {**metrics, **sources}


class Pair(NamedTuple):
    """Two trainings with the same seed."""

    layer: Row
    base: Row


def pairs(
    results: Results, title: Title, base: Title, metric: str, most: int = SEEDS
) -> list[Pair]:
    """The trainings of a candidate and of what it is compared with, for seeds up to `most`.

    Those of which one lacks the metric are left out.
    """
    of_base = {row.seed: row for row in results.rows.get(base, ())}
    return [
        Pair(row, of_base[row.seed])
        for row in results.rows.get(title, ())
        if row.seed <= most
        and row.seed in of_base
        and metric in row.metrics
        and metric in of_base[row.seed].metrics
    ]


def differences(found: Sequence[Pair], metric: str) -> list[float]:
    """Of a metric, the candidate's minus that of what it is compared with."""
    return [pair.layer.metrics[metric] - pair.base.metrics[metric] for pair in found]


def _titles(part: str, epochs: int) -> tuple[Title, Title]:
    return (part, WITHOUT, str(epochs)), (part, WITH, str(epochs))


def cost(results: Results, confidence: float) -> Interval | None:
    """Of the extra layer in the primary figure, bits per dimension; None without a pair."""
    base, layer = _titles("main", EPOCHS)
    found = differences(pairs(results, layer, base, PRIMARY.metric), PRIMARY.metric)
    return interval(found, confidence) if found else None


def _cell(found: Sequence[float], digits: int) -> str:
    each = interval(found, CONFIDENCE)
    half = "" if len(found) < 2 else f" ± {each.half:.{digits}f}"
    return f"{each.mean:+.{digits}f}{half}"


def _rows(found: Sequence[Pair]) -> list[Row]:
    return [row for pair in found for row in pair]


def _too_few_faces(quantity: Quantity, found: Sequence[Pair]) -> bool:
    """Whether a distance is of fewer faces than it takes at most: fewer make it larger."""
    if not quantity.faces:
        return False
    load_tensorflow()
    from facevae.evaluation.face_metrics import MOST

    return any(
        row.metrics[quantity.faces] * row.metrics["samples.count"] < MOST for row in _rows(found)
    )


def answer(results: Results) -> list[str]:
    """What the primary test says, in Markdown lines."""
    tested, shown = cost(results, TEST_CONFIDENCE), cost(results, CONFIDENCE)
    if tested is None or shown is None:
        return ["No pair of main trainings has been measured yet."]
    if tested.count < SEEDS:
        return [
            f"{tested.count} of {SEEDS} pairs of main trainings have been measured: no test is "
            f"made before all are there. The cost so far is {shown.mean:+.4f} bits per dimension."
        ]
    said = {
        "equivalent": "the two are equivalent within the margin",
        "no worse": "the network with the layer is no worse, within the margin",
        "worse": "the network with the layer is worse, by more than the margin",
        "not decided": "the interval contains the margin, so the test does not decide",
    }[verdict(tested, MARGIN)]
    return [
        f"**The layer costs {shown.mean:+.4f} ± {shown.half:.4f} bits per dimension** "
        f"({CONFIDENCE:.0%} interval, {shown.count} pairs of trainings). The margin is {MARGIN} "
        f"bits. The {TEST_CONFIDENCE:.0%} interval of the test is {tested.low:+.4f} to "
        f"{tested.high:+.4f}: {said}."
    ]


def _main_table(results: Results) -> list[str]:
    base, layer = _titles("main", EPOCHS)
    lines = []
    for each in QUANTITIES:
        if not (found := pairs(results, layer, base, each.metric)):
            continue
        means = (
            statistics.fmean(row.metrics[each.metric] for row in rows)
            for rows in ([pair.base for pair in found], [pair.layer for pair in found])
        )
        difference = _cell(differences(found, each.metric), each.digits)
        lines.append([
            each.title, each.better, *(f"{mean:.{each.digits}f}" for mean in means),
            "too few faces" if _too_few_faces(each, found) else difference, str(len(found)),
            *results.origins.cells(_rows(found)),
        ])  # fmt: skip
    head = ["", "better", "without", "with 256 units", "difference", "pairs",
            *results.origins.columns()]  # fmt: skip
    return list(table(head, lines, text=2))


def _control_table(results: Results) -> list[str]:
    base, layer = _titles("main", EPOCHS)
    lines = []
    for quantity in (PRIMARY, PSNR):
        metric = quantity.metric
        compared = {
            title: found
            for title in (layer, *(title for title in CANDIDATES if title[0] == "control"))
            if len(found := pairs(results, title, base, metric, CONTROL_SEEDS)) > 1
        }
        if all(title == layer for title in compared):
            return ["Not measured yet."]
        control = {pair.base.seed: pair.base for found in compared.values() for pair in found}
        p_values = dunnett(
            [[pair.layer.metrics[metric] for pair in found] for found in compared.values()],
            [row.metrics[metric] for row in control.values()],
        )
        for (title, found), p_value in zip(compared.items(), p_values, strict=True):
            lines.append([
                title[1], quantity.title, _cell(differences(found, metric), quantity.digits),
                str(len(found)), f"{p_value:.3f}" if p_value >= 0.0005 else "< 0.001",
                *results.origins.cells(_rows(found)),
            ])  # fmt: skip
    head = ["network", "figure", "difference to no layer", "pairs", "Dunnett's p",
            *results.origins.columns()]  # fmt: skip
    return [
        *table(head, lines, text=2),
        "",
        f"Of seeds 1 to {CONTROL_SEEDS} alone. The intervals are of pairs, each for itself. "
        "Dunnett's p is of the trainings without their pairs, and holds the chance of any false "
        "alarm among the networks.",
    ]


def _steps(results: Results) -> dict[int, list[Pair]]:
    """The pairs of trainings by the images seen."""
    found = {
        epochs * IMAGES_OF_AN_EPOCH: pairs(results, layer, base, PRIMARY.metric)
        for part, epochs in (("steps", SHORT), ("main", EPOCHS), ("steps", LONG))
        for base, layer in [_titles(part, epochs)]
    }
    return {images: each for images, each in found.items() if each}


def _change(steps: Mapping[int, Sequence[Pair]]) -> list[str]:
    """How the cost changes from the shortest trainings to the main ones, of the same seeds."""
    first, last = SHORT * IMAGES_OF_AN_EPOCH, EPOCHS * IMAGES_OF_AN_EPOCH
    costs = [
        {pair.layer.seed: differences([pair], PRIMARY.metric)[0] for pair in steps.get(images, ())}
        for images in (first, last)
    ]
    seeds = sorted(costs[0].keys() & costs[1].keys())
    if len(seeds) < 2:
        return []
    change = _cell([costs[1][seed] - costs[0][seed] for seed in seeds], PRIMARY.digits)
    return [
        f"From {first:,} to {last:,} images the cost changes by {change} bits per dimension "
        f"({CONFIDENCE:.0%} interval, the {len(seeds)} seeds that both have)."
    ]


def _steps_table(results: Results) -> list[str]:
    steps = _steps(results)
    lines = [
        [
            f"{images:,}",
            *(_cell(differences(found, each.metric), each.digits) for each in (PRIMARY, PSNR)),
            str(len(found)),
            *results.origins.cells(_rows(found)),
        ]
        for images, found in steps.items()
    ]
    head = ["images seen", "cost, bits per dimension", "PSNR, dB", "pairs",
            *results.origins.columns()]  # fmt: skip
    return [
        *table(head, lines),
        "",
        "![The cost over the images seen](extra_layer.png)",
        "",
        *_change(steps),
        "Each number of images has trainings of its own, whose learning rate falls to 0 at their "
        f"end. All see the same {IMAGES_OF_AN_EPOCH:,} images, more or less often. A single pair "
        "has no interval.",
    ]


def _commands(results: Results) -> list[str]:
    lines = []
    for variant, title in zip(VARIANTS, _titles("main", EPOCHS), strict=True):
        settings = {**results.settings[title], "train.seed": 1}
        if not settings["encoder.inter_dense"]:
            del settings["encoder.inter_dense"]
        lines.append(f"{dvc_command(settings)} evaluate@{variant}")
    return lines


def report(results: Results) -> list[str]:
    """The lines of the Markdown report."""
    return [
        "# Does the extra Dense layer hurt?",
        "",
        "The design, which was fixed before the first main training, is the docstring of "
        "`studies/extra_layer.py`. Learning rates: "
        + "; ".join(f"{network}: {rate:g}" for network, rate in RATES.items())
        + ", from [the pilot](extra_layer_pilot.md).",
        "",
        *answer(results),
        "",
        f"## All figures of the main trainings, with {CONFIDENCE:.0%} intervals",
        "",
        f"{EPOCHS} epochs, the test split; differences are of trainings with the same seed.",
        "",
        *_main_table(results),
        "",
        "## Controls: is it capacity, and is it the cheapest way?",
        "",
        *_control_table(results),
        "",
        "## Does the gap close with more steps?",
        "",
        *_steps_table(results),
        "",
        *results.origins.note(),
        "",
        "A training of each network with seed 1:",
        "",
        "```console",
        *_commands(results),
        "```",
    ]


def _over_images(axes: Axes, points: Mapping[int, Sequence[float]], title: str) -> None:
    for images, values in points.items():
        each = interval(values, CONFIDENCE)
        colour = VARIANT_COLOURS["inter_dense"]
        axes.plot([images] * len(values), values, ".", color=colour, alpha=0.35)
        if each.count > 1:
            axes.errorbar(images, each.mean, each.half, fmt="o", color=colour, capsize=4)
        else:
            axes.plot(images, each.mean, "o", color=colour)
    axes.axhline(0.0, color="#888888", linewidth=1)
    axes.set_xscale("log")
    axes.set_xticks(list(points), [f"{images:,}" for images in points])
    axes.minorticks_off()
    axes.set_xlabel("images seen in training")
    axes.set_ylabel(title)
    axes.spines[["top", "right"]].set_visible(False)


def _samples_of_longest(results: Results, folder: Path) -> dict[str, Path]:
    """Of each variant, from the longest trainings whose samples are here for both."""
    for part, epochs in (("steps", LONG), ("main", EPOCHS)):
        titles = _titles(part, epochs)
        for pair in pairs(results, titles[1], titles[0], PRIMARY.metric):
            files = [
                place(folder, results.settings[title], row.seed, row.origin) / "shown.npy"
                for title, row in zip(titles, (pair.base, pair.layer), strict=True)
            ]
            if all(file.exists() for file in files):
                return dict(zip(VARIANTS, files, strict=True))
    return {}


def save_pictures(results: Results, folder: Path, reports: Path) -> None:
    """The cost over the images seen; samples of the longest trainings that are here."""
    steps = _steps(results)
    if not steps:
        return
    bits, decibels = (
        {images: differences(found, each.metric) for images, found in steps.items()}
        for each in (PRIMARY, PSNR)
    )
    figure = Figure(figsize=(8, 3.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(
        f"256 units against no layer: pairs of trainings, mean and {CONFIDENCE:.0%} interval",
        fontsize=12,
    )
    left, right = figure.subplots(1, 2)
    _over_images(left, bits, "bits per dimension: above 0 is worse")
    left.axhspan(-MARGIN, MARGIN, color="#88888822", linewidth=0)
    place_of_text = {"transform": left.get_yaxis_transform(), "ha": "right", "va": "bottom"}
    left.text(0.99, MARGIN, f"margin: ± {MARGIN}", fontsize=8, color="#666666", **place_of_text)
    _over_images(right, decibels, "PSNR, dB: below 0 is worse")
    with atomic_write(reports / "extra_layer.png") as temporary:
        # Matplotlib's own entry names its version.
        figure.savefig(temporary, format="png", metadata={"Software": None})
    for variant, file in _samples_of_longest(results, folder).items():
        from facevae.plotting.grids import save_grid

        save_grid(np.load(file), 8, reports / f"extra_layer_samples_{variant}.png")


STUDY = Study(
    name="extra_layer",
    report_file="extra_layer.md",
    common=COMMON,
    candidates=CANDIDATES,
    seeds={title: 1 if title[-1] == str(LONG) else _SEEDS[title[0]] for title in CANDIDATES},
    measure=measure,
    report=report,
    pictures=save_pictures,
)

if __name__ == "__main__":
    main(STUDY, __doc__)
