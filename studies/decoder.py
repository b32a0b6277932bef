"""How the Decoder enlarges its images, and how the VAE is trained: which has no grid and is best.

Every candidate is the variant with the extra Dense layer, trained on equally many images and
measured on the validation split.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import table
from facevae.common.runtime import enable_determinism, load_tensorflow
from studies.harness import Results, Settings, Study, Title, Work, dvc_command, main, place
from studies.measurements import made_by, reconstruction_metrics, reference

EPOCHS = 3
SHOWN = 4  # samples of a candidate in the picture
PICTURE = "decoder_samples.png"

POST: Settings = {
    "decoder.kernel_sizes": None,
    "decoder.resize_layers": 0,
    "encoder.kernel_sizes": [3, 3, 3, 3],
    "train.batch_size": 32,
    "train.ema_momentum": None,
    "train.horizontal_flips": False,
    "train.learning_rate": 0.001,
}
# In the two outermost layers.
RESIZE: Settings = {**POST, "decoder.resize_layers": 2}

THE_POST = ("as in the post",)
RESIZED = ("resize in the three outermost",)
RESIZED_16 = ("resize in three, batch 16",)
CANDIDATES: dict[Title, Settings] = {
    THE_POST: POST,
    ("resize in all layers",): {**POST, "decoder.resize_layers": 4},
    ("resize in the two outermost",): RESIZE,
    RESIZED: {**POST, "decoder.resize_layers": 3},
    ("resize in the outermost",): {**POST, "decoder.resize_layers": 1},
    ("kernel 4 in the Decoder's two outermost",): {**POST, "decoder.kernel_sizes": [4, 4, 3, 3]},
    ("kernel 4 in the Decoder",): {**POST, "decoder.kernel_sizes": [4, 4, 4, 4]},
    ("kernel 4 in both networks",): {**POST, "encoder.kernel_sizes": [4, 4, 4, 4]},
    RESIZED_16: {
        **POST, "decoder.resize_layers": 3, "train.batch_size": 16,
    },
    ("resize in two, batch 16",): {**RESIZE, "train.batch_size": 16},
    ("resize in two, batch 16, rate 0.0005",): {
        **RESIZE, "train.batch_size": 16, "train.learning_rate": 0.0005,
    },
    ("resize in two, EMA 0.99",): {**RESIZE, "train.ema_momentum": 0.99},
    ("resize in two, flips",): {**RESIZE, "train.horizontal_flips": True},
    ("resize in two, rate 0.0005",): {**RESIZE, "train.learning_rate": 0.0005},
    ("resize in two, rate 0.002",): {**RESIZE, "train.learning_rate": 0.002},
    ("kernel 4 in the Decoder's outermost",): {**POST, "decoder.kernel_sizes": [4, 3, 3, 3]},
    # Mirrored by a first conv layer of the Encoder with stride 1.
    ("3x3 at stride 1 as last layer",): {
        **POST,
        "encoder.filters": [32, 32, 64, 128, 256],
        "encoder.kernel_sizes": [3, 3, 3, 3, 3],
        "encoder.strides": [1, 2, 2, 2, 2],
    },
}  # fmt: skip

PICTURED = (THE_POST, RESIZED, RESIZED_16)

COLUMNS = {
    "reconstructions.grid": ("grid, reconstructions", ".2f"),
    "samples.grid": ("grid, samples", ".2f"),
    "bits_per_dimension": ("bits per dimension", ".4f"),
    "psnr": ("PSNR, dB", ".2f"),
    "frechet_distance": ("Frechet distance", ".2f"),
    "sharpness": ("sharpness", ".3f"),
}


def measure(work: Work, title: Title, seed: int) -> Mapping[str, Any]:
    """Quality of a candidate, and how much of a grid there is in its images.

    Samples are drawn from a Gaussian fitted to the training codes; some stay beside the model.
    """
    load_tensorflow()
    from facevae.evaluation.attribute_classifier import features
    from facevae.evaluation.feature_metrics import frechet_distance
    from facevae.evaluation.grid import image_grid
    from facevae.evaluation.image_metrics import sharpness_ratio

    enable_determinism(0)
    held_out, network = reference(work.shards, work.attributes)
    folder = work.train(title, seed)
    made = made_by(folder / "model.keras", work.shards, held_out, "gaussian")
    np.save(folder / "shown.npy", made.samples[:SHOWN])
    return {
        "reconstructions": {"grid": image_grid(made.reconstructed, held_out)},
        "samples": {"grid": image_grid(made.samples, held_out)},
        **reconstruction_metrics(made, held_out),
        "frechet_distance": frechet_distance(
            features(network, held_out), features(network, made.samples)
        ),
        "sharpness": sharpness_ratio(made.samples, held_out),
    }


def report(results: Results) -> list[str]:
    """The lines of the Markdown report."""
    lines = []
    for title, rows in results.rows.items():
        values = [results.mean(title, metric) for metric in COLUMNS]
        forms = [form for _, form in COLUMNS.values()]
        cells = ["" if value is None else f"{value:{form}}"
                 for value, form in zip(values, forms, strict=True)]  # fmt: skip
        lines.append([*title, *cells, str(len(rows)), *results.origins.cells(rows)])
    head = ["", *(name for name, _ in COLUMNS.values()), "seeds", *results.origins.columns()]
    common = next(iter(results.settings.values()))
    return [
        "# How the Decoder enlarges its images, and how it is trained",
        "",
        f"The variant with {common['encoder.inter_dense']} units in the extra Dense layer, "
        f"{common['train.epochs']} epochs each, measured on the validation split. All else is as "
        "in params.yaml. The grid is the largest peak at a period of 2, 4 or 8 pixels, relative to "
        "real images, which have 1 (`facevae.evaluation.grid`). Bits per dimension are those of "
        "a Gaussian Decoder with the sigma that is best for each row. Samples are drawn from a "
        "Gaussian fitted to the training codes. Values are means over the seeds, of which "
        "the column `seeds` gives the number.",
        "",
        *table(head, lines),
        "",
        *results.origins.note(),
        "",
        f"Samples: {PICTURE}, a row each: {'; '.join(title[0] for title in PICTURED)}.",
        "",
        "```console",
        *(
            f"{dvc_command(settings)}   # {title[0]}"
            for title, settings in results.settings.items()
        ),
        "```",
    ]


def save_pictures(results: Results, folder: Path, reports: Path) -> None:
    """Samples of some, a row each; drawn only where a model of each is on this machine."""
    files = []
    for title in PICTURED:
        places = (place(folder, results.settings[title], row.seed, row.origin) / "shown.npy"
                  for row in results.rows.get(title, ()))  # fmt: skip
        files += [file for file in places if file.exists()][:1]
    if len(files) < len(PICTURED):
        print("the picture stays as it is: not all of its models are on this machine")
        return
    from facevae.plotting.grids import save_grid

    save_grid(np.concatenate([np.load(file)[:SHOWN] for file in files]), SHOWN, reports / PICTURE)


STUDY = Study(
    name="decoder",
    report_file="decoder.md",
    common={"encoder.inter_dense": 256, "train.epochs": EPOCHS},
    candidates=CANDIDATES,
    seeds=dict.fromkeys([THE_POST, RESIZED, RESIZED_16], 3),
    measure=measure,
    report=report,
    pictures=save_pictures,
)

if __name__ == "__main__":
    main(STUDY, __doc__)
