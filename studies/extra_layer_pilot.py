"""Which learning rate suits each network of the study of the extra Dense layer.

One training each with one seed, measured on the validation split. `studies.extra_layer` trains with
the rates that have the fewest bits here.
"""

from collections.abc import Mapping
from typing import Any

from benchmarks.harness import table
from facevae.common.runtime import enable_determinism, load_tensorflow
from studies.harness import Results, Settings, Study, Title, Work, main
from studies.measurements import image_metrics, reference

# 53,888 images in 3,368 steps.
EPOCHS = 4
RATES = (0.0003, 0.001, 0.003)
PRIOR = "gaussian"

# What all trainings of the extra layer's two studies share, beside the defaults of params.yaml.
COMMON: Settings = {
    "evaluate.faces": True,
    "generate.prior": PRIOR,
    "train.batch_size": 16,
    "train.learning_rate_schedule": "cosine",
}
NETWORKS: dict[str, Settings] = {
    "direct": {"encoder.inter_dense": 0, "encoder.latent_size": 256},
    "256 units": {"encoder.inter_dense": 256, "encoder.latent_size": 256},
    "512 units": {"encoder.inter_dense": 512, "encoder.latent_size": 256},
    # As many weights as with 256 units.
    "latent size 175": {"encoder.inter_dense": 0, "encoder.latent_size": 175},
}
CANDIDATES: dict[Title, Settings] = {
    (network, f"{rate:g}"): {**settings, "train.learning_rate": rate}
    for network, settings in NETWORKS.items()
    for rate in RATES
}


def measure(work: Work, title: Title, seed: int) -> Mapping[str, Any]:
    """Bits per dimension under the fitted prior, rate and PSNR of the validation split."""
    load_tensorflow()
    from facevae.latent.priors import prior_of_dataset
    from facevae.model.saving import load_model
    from facevae.shards.batches import Shards

    enable_determinism(0)
    held_out, _ = reference(work.shards, work.attributes)
    vae = load_model(work.train(title, seed) / "model.keras")
    found = image_metrics(vae, prior_of_dataset(PRIOR, vae, Shards(work.shards)), held_out)
    return {"validation": {name: float(each.mean()) for name, each in found._asdict().items()}}


def best_rates(results: Results) -> dict[str, float]:
    """Of each network that has rows, the rate with the fewest bits."""
    bits = {
        title: mean
        for title in results.rows
        if (mean := results.mean(title, "validation.bits")) is not None
    }
    return {
        network: float(min((each for each in bits if each[0] == network), key=bits.__getitem__)[1])
        for network in dict.fromkeys(title[0] for title in bits)
    }


def report(results: Results) -> list[str]:
    """The lines of the Markdown report."""
    best = {(network, f"{rate:g}") for network, rate in best_rates(results).items()}
    lines = []
    for title, rows in results.rows.items():
        cells = [
            f"{results.mean(title, 'validation.bits') or 0.0:.4f}",
            f"{results.mean(title, 'validation.psnr') or 0.0:.2f}",
            f"{results.mean(title, 'validation.rate') or 0.0:.0f}",
        ]
        marked = [f"**{cell}**" for cell in title] if title in best else title
        lines.append([*marked, *cells, *results.origins.cells(rows)])
    return [
        "# The learning rates of the study of the extra layer",
        "",
        f"{EPOCHS} epochs each, one seed, the validation split. Bits per dimension and the rate, "
        "in nats, are those under a Gaussian prior that is fitted to the training codes. Bold is "
        "the rate with the fewest bits, which the study trains each network with.",
        "",
        *table(
            ["network", "learning rate", "bits per dimension", "PSNR, dB", "rate, nats",
             *results.origins.columns()], lines, text=2,
        ),
        "",
        *results.origins.note(),
    ]  # fmt: skip


STUDY = Study(
    name="extra_layer_pilot",
    report_file="extra_layer_pilot.md",
    common={**COMMON, "train.epochs": EPOCHS},
    candidates=CANDIDATES,
    seeds={},
    measure=measure,
    report=report,
)

if __name__ == "__main__":
    main(STUDY, __doc__)
