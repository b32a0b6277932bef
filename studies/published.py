"""The default beside what others publish, each with the best of three learning rates.

The same networks, steps and prior for all: what differs is the loss, the learning rate and, in
pythae, the schedule and the framework. One candidate is the default before, with the Decoder of the
post. All are the variant with the extra Dense layer, measured on the validation split.
"""

from collections.abc import Mapping
from typing import Any

from benchmarks.harness import table
from facevae.common.requests import check_face_packages
from facevae.common.runtime import enable_determinism, load_tensorflow
from studies.harness import Results, Settings, Study, Title, Work, dvc_command, main
from studies.measurements import (
    check_peers,
    face_metrics,
    made_by,
    made_by_pythae,
    reconstruction_metrics,
    reference,
    sample_metrics,
)

EPOCHS = 2  # 26,944 images in 1,684 steps
BATCH = 16
PRIOR = "gaussian"

OURS: Settings = {"loss.reconstruction": "gaussian", "loss.sigma": "learned"}
BEFORE = ("the default before: the post's Decoder, batch 32", "0.001")
DEFAULT = ("the default", "0.001")
PYTHAE = "pythae's VAE, constant rate"
LOSSES: dict[str, Settings] = {
    "the series: bce, weight 15": {"loss.reconstruction": "bce", "loss.kl_weight": 15.0},
    "Keras' example: bce, weight 1": {"loss.reconstruction": "bce", "loss.kl_weight": 1.0},
}
RATES = (0.0003, 0.001, 0.003)

CANDIDATES: dict[Title, Settings] = {
    DEFAULT: OURS,
    BEFORE: {**OURS, "decoder.resize_layers": 0, "train.batch_size": 32},
    **{
        (loss, f"{rate:g}"): {**settings, "train.learning_rate": rate}
        for loss, settings in LOSSES.items()
        for rate in RATES
    },
    # No parameters: what they stand for is not trained by the train stage.
    **{(PYTHAE, f"{rate:g}"): {"peer": "pythae", "peer.learning_rate": rate} for rate in RATES},
}

COLUMNS = {
    "reconstructions.grid": ("grid, reconstructions", ".2f"),
    "samples.grid": ("grid, samples", ".2f"),
    "bits_per_dimension": ("bits per dimension", ".4f"),
    "psnr": ("PSNR, dB", ".2f"),
    "reconstructions.same_person": ("same person", ".3f"),
    "reconstructions.face_distance": ("distance of descriptors", ".3f"),
    "samples.face_share": ("samples with a face", ".3f"),
    "samples.face_frechet_distance": ("Frechet distance, descriptors", ".4f"),
    "frechet_distance": ("Frechet distance, attributes", ".2f"),
    "swd": ("SWD", ".0f"),
}


def measure(work: Work, title: Title, seed: int) -> Mapping[str, Any]:
    """Quality of a candidate."""
    check_peers("make study-published")
    check_face_packages()
    load_tensorflow()
    from facevae.evaluation.grid import image_grid

    enable_determinism(0)
    held_out, network = reference(work.shards, work.attributes)
    if title[0] == PYTHAE:
        settings = work.settings[title]
        made = made_by_pythae(
            work, held_out, settings, seed, learning_rate=settings["peer.learning_rate"],
            resize_layers=work.parameters(DEFAULT, seed).decoder.resize_layers, prior=PRIOR,
        )  # fmt: skip
    else:
        folder = work.train(title, seed)
        made = made_by(folder / "model.keras", work.shards, held_out, PRIOR)
    faces = face_metrics(made, held_out)
    return {
        "reconstructions": {
            "grid": image_grid(made.reconstructed, held_out),
            **faces["reconstructions"],
        },
        "samples": {"grid": image_grid(made.samples, held_out), **faces["samples"]},
        **reconstruction_metrics(made, held_out),
        **sample_metrics(made.samples, held_out, network),
    }


def best_rates(results: Results) -> dict[str, Title]:
    """Of each name, the candidate with the fewest bits per dimension."""
    best: dict[str, Title] = {}
    for title in results.rows:
        bits = results.mean(title, "bits_per_dimension") or 0.0
        rival = best.get(title[0])
        if rival is None or bits < (results.mean(rival, "bits_per_dimension") or 0.0):
            best[title[0]] = title
    return best


def report(results: Results) -> list[str]:
    """The lines of the Markdown report."""
    best = set(best_rates(results).values())
    lines = []
    for title, rows in results.rows.items():
        values = [results.mean(title, metric) for metric in COLUMNS]
        forms = [form for _, form in COLUMNS.values()]
        cells = [
            "" if value is None else f"{value:{form}}"
            for value, form in zip(values, forms, strict=True)
        ]
        marked = [f"**{cell}**" for cell in title] if title in best else title
        lines.append([*marked, *cells, str(len(rows)), *results.origins.cells(rows)])
    head = ["", "learning rate", *(name for name, _ in COLUMNS.values()), "seeds",
            *results.origins.columns()]  # fmt: skip
    common = results.settings[DEFAULT]
    return [
        "# The default beside what others publish",
        "",
        f"The variant with {common['encoder.inter_dense']} units in the extra Dense layer, trained "
        f"for {common['train.epochs']} epochs of batch {common['train.batch_size']} and measured "
        "on the validation split. All have the same networks, but the second row has the Decoder "
        "of the post and batches of 32. The learning rate falls as a cosine; pythae's is constant. "
        "Samples are drawn from a Gaussian fitted to each model's training codes. Bits per "
        "dimension are those of a Gaussian Decoder with the sigma that is best for each row. "
        "Bold is the rate with the fewest bits per dimension. The grid of real images is 1; SWD is "
        "in the real images' normalisation.",
        "",
        *table(head, lines, text=2),
        "",
        *results.origins.note(),
        "",
        "```console",
        *(
            f"{dvc_command(settings)}   # {', '.join(title)}"
            for title, settings in results.settings.items()
            if title[0] != PYTHAE
        ),
        "```",
    ]


STUDY = Study(
    name="published",
    report_file="published.md",
    common={
        "encoder.inter_dense": 256,
        "train.batch_size": BATCH,
        "train.epochs": EPOCHS,
        "train.learning_rate": 0.001,
    },
    candidates=CANDIDATES,
    seeds={},
    measure=measure,
    report=report,
)

if __name__ == "__main__":
    main(STUDY, __doc__)
