"""A KL weight near zero beside the plain autoencoder and the default: their z-points, and samples.

What the series of posts announced. All are the variant with the extra Dense layer, trained for the
same number of steps and measured on the validation split.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.harness import project_parameters, table
from facevae.common.runtime import enable_determinism, load_tensorflow
from studies.harness import Results, Settings, Study, Title, Work, dvc_command, main, place
from studies.measurements import (
    code_metrics,
    made_by,
    reconstruction_metrics,
    reference,
    sample_metrics,
)

if TYPE_CHECKING:
    from facevae.model.vae import VAE

BATCH = 16
EPOCHS = 4  # 53,888 images
SHOWN = 6  # samples of each
EXTENT = 6.0  # of z in the picture, on both sides of 0
PRIORS = {"normal": "N(0, I)", "gaussian": "fitted"}

CANDIDATES: dict[Title, Settings] = {
    ("default",): {"loss.reconstruction": "gaussian", "loss.sigma": "learned"},
    ("mse, weight 1",): {"loss.reconstruction": "mse"},
    # The series' squared error with its fact of 0.02: see `facevae.model.losses`.
    ("mse, weight 0.06",): {"loss.reconstruction": "mse", "loss.kl_weight": 0.06},
    ("mse, weight 0.001",): {"loss.reconstruction": "mse", "loss.kl_weight": 0.001},
    ("plain autoencoder",): {"loss.reconstruction": "mse", "loss.kl_weight": 0.0},
}


def weight_beside_squared_error(vae: "VAE") -> float:
    """The KL weight of a loss that is scaled so; "gaussian" divides its error by 2 sigma^2."""
    from facevae.evaluation.likelihood import decoder_sigma

    sigma = decoder_sigma(vae) if vae.reconstruction == "gaussian" else None
    return vae.kl_weight if sigma is None else 2.0 * sigma**2 * vae.kl_weight


def measure(work: Work, title: Title, seed: int) -> Mapping[str, Any]:
    """Where a model's z-points lie, and what random ones become.

    What the pictures show of it stays beside the model.
    """
    load_tensorflow()
    from facevae.model.saving import load_model

    enable_determinism(0)
    held_out, network = reference(work.shards, work.attributes)
    folder = work.train(title, seed)
    codes, z = code_metrics(folder / "model.keras", held_out)
    weight = weight_beside_squared_error(load_model(folder / "model.keras"))
    found: dict[str, Any] = {"weight": weight, **codes}
    shown = {"z": z}
    for prior in PRIORS:
        made = made_by(folder / "model.keras", work.shards, held_out, prior)
        found |= reconstruction_metrics(made, held_out)
        found[prior] = sample_metrics(made.samples, held_out, network)
        shown[prior] = made.samples[:SHOWN]
    np.savez(folder / "shown.npz", **shown)  # type: ignore[arg-type]
    return found


def report(results: Results) -> list[str]:
    """The lines of the Markdown report."""
    latent = project_parameters(results.settings["default",]).encoder.latent_size
    common = results.settings["default",]
    lines = []
    for title, rows in results.rows.items():
        found = {metric: results.mean(title, metric) or 0.0 for metric in rows[0].metrics}
        lines.append(
            [
                *title,
                f"{found['weight']:.3f}",
                f"{found['mu_deviation.mean']:.2f}, {found['mu_deviation.largest']:.2f}",
                f"{found['sigma']:.3f}",
                f"{found['radius']:.1f}",
                f"{found['kl']:,.0f}",
                f"{found['psnr']:.2f}",
                ", ".join(f"{found[f'{prior}.frechet_distance']:.1f}" for prior in PRIORS),
                ", ".join(f"{found[f'{prior}.swd']:.0f}" for prior in PRIORS),
                str(len(rows)),
                *results.origins.cells(rows),
            ]
        )
    sources = ", ".join(PRIORS.values())
    head = [
        "", "KL weight beside a squared error", "deviation of mu: mean, largest unit",
        "mean sigma", "median length of z", "KL, nats",
        "PSNR, dB", f"Frechet distance of samples: {sources}", f"SWD: {sources}", "seeds",
        *results.origins.columns(),
    ]  # fmt: skip
    return [
        "# A KL weight near zero, and none",
        "",
        f"The variant with {common['encoder.inter_dense']} units in the extra Dense layer, "
        f"{common['train.epochs']} epochs of batch {common['train.batch_size']}, with less and "
        "less weight on the KL term; measured on the validation split. Points of N(0, I) have a "
        f"deviation of 1 in each unit, and a length of {np.sqrt(latent):.1f} in {latent} "
        "dimensions. `fitted` samples are drawn from a Gaussian fitted to the training codes, SWD "
        "is in the real images' normalisation.",
        "",
        *table(head, lines),
        "",
        *results.origins.note(),
        "",
        "```console",
        *(
            f"{dvc_command(settings)}   # {title[0]}"
            for title, settings in results.settings.items()
        ),
        "```",
    ]


def save_pictures(results: Results, folder: Path, reports: Path) -> None:
    """Samples, a column for each candidate and prior, and histograms of z.

    Drawn only where the models of all rows were trained on this machine.
    """
    files = {
        title: place(folder, results.settings[title], rows[0].seed, rows[0].origin) / "shown.npz"
        for title, rows in results.rows.items()
    }
    if not all(file.exists() for file in files.values()):
        print("the pictures stay as they are: not all models are on this machine")
        return
    from scipy import stats

    from facevae.plotting.charts import COLOURS, REFERENCE, Curve, save_curves
    from facevae.plotting.grids import save_grid

    shown = {title[0]: dict(np.load(file)) for title, file in files.items()}
    columns = {
        "\n".join([*name.split(", "), source]): arrays[prior]
        for prior, source in PRIORS.items()
        for name, arrays in shown.items()
    }
    pictures = np.stack(list(columns.values()), axis=1)
    pictures = pictures.reshape(-1, *pictures.shape[2:])
    save_grid(pictures, len(columns), reports / "kl_weights_samples.png", list(columns))
    edges = np.linspace(-EXTENT, EXTENT, 97)
    middles, width = 0.5 * (edges[:-1] + edges[1:]), edges[1] - edges[0]
    curves = []
    for (name, arrays), colour in zip(shown.items(), COLOURS, strict=False):
        density = np.histogram(arrays["z"], edges)[0] / arrays["z"].size / width
        curves.append(Curve(name, middles, density, colour))
    fine = np.linspace(-EXTENT, EXTENT, 400)
    normal = Curve("N(0, 1)", fine, stats.norm.pdf(fine), REFERENCE, dashed=True)
    save_curves(
        {"density": [*curves, normal]},
        reports / "kl_weights_z.png",
        title="z of held-out faces, all units together, by the KL weight",
        x_label="z",
    )


STUDY = Study(
    name="kl_weight",
    report_file="kl_weights.md",
    common={
        "encoder.inter_dense": 256,
        "train.batch_size": BATCH,
        "train.epochs": EPOCHS,
    },
    candidates=CANDIDATES,
    seeds={},
    measure=measure,
    report=report,
    pictures=save_pictures,
)

if __name__ == "__main__":
    main(STUDY, __doc__)
