"""Both variants side by side, and the claims of a blog post beside what this run measured.

The post: "Variational Autoencoder with Tensorflow - XII - save some VRAM by an extra Dense layer
in the Encoder" (2022), summarised here in our words.
"""

import json
from typing import Any

from facevae.common.parameters import VARIANTS, Parameters
from facevae.common.tables import markdown_table, rows_csv
from facevae.memory.capacity import MIB, break_even
from facevae.memory.ledger import ledger

Measured = dict[str, Any]

# Metrics of sets of images: name, key in each of `_SECTIONS`, format.
_OF_SAMPLES = (
    ("Frechet distance, attribute features", "frechet_distance", "{:,.3f}"),
    ("precision, attribute features", "precision", "{:,.3f}"),
    ("recall, attribute features", "recall", "{:,.3f}"),
    ("FID, Keras' Inception", "fid", "{:,.2f}"),
    ("share of images in which a face is found", "face_share", "{:,.3f}"),
    ("Frechet distance, descriptors of faces", "face_frechet_distance", "{:,.4f}"),
    ("sliced Wasserstein distance", "swd.mean", "{:,.1f}"),
    (
        "sliced Wasserstein distance, real normalisation",
        "swd_real_normalization.mean",
        "{:,.1f}",
    ),
    ("grid of the strides, 1 in real images", "grid", "{:,.3f}"),
    ("sharpness relative to real images", "sharpness", "{:,.3f}"),
    ("MS-SSIM between images of a set", "diversity", "{:,.3f}"),
)
_SECTIONS = {
    "samples": "samples",
    "samples from N(0, I)": "samples_normal",
    "other real images": "real_images",
}

_QUANTITIES = (
    ("Encoder parameters", "encoder.params", "{:,.0f}"),
    ("Encoder parameters, trainable", "encoder.trainable_params", "{:,.0f}"),
    ("Decoder parameters", "decoder.params", "{:,.0f}"),
    ("test loss per image", "test.loss", "{:,.2f}"),
    ("test reconstruction term per image", "test.reconstruction", "{:,.2f}"),
    ("test KL to N(0, I) per image, nats", "test.kl", "{:,.2f}"),
    (
        "of it: the rate, the KL to the prior of samples, nats",
        "test.rate_under_prior",
        "{:,.2f}",
    ),
    (
        "of it: the mismatch of all codes to N(0, I), nats",
        "test.mismatch_to_normal",
        "{:,.2f}",
    ),
    ("test PSNR of reconstructions, dB", "test.psnr", "{:,.2f}"),
    ("test SSIM of reconstructions", "test.ssim", "{:,.4f}"),
    ("test MS-SSIM of reconstructions", "test.ms_ssim", "{:,.4f}"),
    ("grid of the strides in reconstructions, 1 in real images", "test.grid", "{:,.3f}"),
    ("share of reconstructions in which a face is found", "test.face_share", "{:,.3f}"),
    ("distance of faces, held-out and reconstructed, median", "test.face_distance", "{:,.3f}"),
    ("share of reconstructions taken for the same person", "test.same_person", "{:,.3f}"),
    ("active latent units", "test.active_units", "{:,.0f}"),
    ("test KL of the smallest latent unit, nats", "test.kl_per_unit.smallest", "{:,.4f}"),
    ("test KL of the median latent unit, nats", "test.kl_per_unit.median", "{:,.4f}"),
    ("test KL of the largest latent unit, nats", "test.kl_per_unit.largest", "{:,.4f}"),
    ("sigma of the Decoder, for pixel values in [0, 1]", "test.sigma", "{:,.4f}"),
    ("test ELBO under N(0, I), bits per dimension", "test.elbo_bits_per_dimension", "{:,.4f}"),
    (
        "test ELBO under the prior of samples, bits per dimension",
        "test.elbo_bits_per_dimension_under_prior",
        "{:,.4f}",
    ),
    (
        "log likelihood of test codes under the prior of samples, nats",
        "test.codes_log_likelihood_under_prior",
        "{:,.2f}",
    ),
    *(
        (f"{name}: {what}", f"{section}.{metric}", form)
        for name, metric, form in _OF_SAMPLES
        for what, section in _SECTIONS.items()
    ),
    ("seconds per epoch (training steps alone)", "cost.seconds_per_epoch", "{:,.1f}"),
    ("images per second", "cost.images_per_second", "{:,.0f}"),
    ("images per second, lower quartile", "cost.images_per_second_lower_quartile", "{:,.0f}"),
    ("images per second, upper quartile", "cost.images_per_second_upper_quartile", "{:,.0f}"),
    ("images per second at twice the batch", "cost.images_per_second_double_batch", "{:,.0f}"),
    ("peak memory of training, MiB", "cost.peak_memory_mib", "{:,.0f}"),
    ("peak memory of a training step, estimated, MiB", "cost.estimated_peak_mib", "{:,.1f}"),
    ("batch size of time and memory", "cost.batch_size", "{:,.0f}"),
)


_SPREADS = ("direct_spread", "inter_dense_spread")


def _look_up(measured: Measured, key: str) -> float | None:
    value: Any = measured
    for part in key.split("."):
        value = value[part]
    return value


def _spread(measured: Measured, key: str) -> float | None:
    """The standard deviation over draws of a metric of samples; None of other metrics."""
    section, _, metric = key.partition(".")
    return measured.get(f"{section}_spread", {}).get(metric.removesuffix(".mean"))


def _derived(measured: Measured, parameters: Parameters, train_images: int) -> Measured:
    """The metrics, and in "cost" what an epoch's whole batches take and a step's estimated peak."""
    cost = measured["cost"]
    images = train_images // cost["batch_size"] * cost["batch_size"]
    seconds = round(images / cost["images_per_second"], 3)
    estimate = round(ledger(parameters).peak / MIB, 3)
    more = {"seconds_per_epoch": seconds, "estimated_peak_mib": estimate}
    return {**measured, "cost": {**cost, **more}}


def comparison_rows(
    parameters: Parameters, direct: Measured, inter_dense: Measured, train_images: int
) -> list[dict[str, Any]]:
    """One row per quantity: its name, its key, both variants' values and inter_dense - direct.

    Of metrics of samples, also both variants' standard deviations over draws; else None.

    Args:
        parameters: those of the run.
        direct, inter_dense: metrics of a variant, with its cost under "cost".
        train_images: how many images the train split has.
    """
    direct, inter_dense = (
        _derived(measured, parameters.variant(variant), train_images)
        for variant, measured in zip(VARIANTS, (direct, inter_dense), strict=True)
    )
    rows = []
    for name, key, form in _QUANTITIES:
        without, with_layer = _look_up(direct, key), _look_up(inter_dense, key)
        rows.append(
            {
                "quantity": name,
                "key": key,
                "direct": without,
                "inter_dense": with_layer,
                "difference": None
                if without is None or with_layer is None
                else round(with_layer - without, 6),
                "direct_spread": _spread(direct, key),
                "inter_dense_spread": _spread(inter_dense, key),
                "form": form,
            }
        )
    return rows


def comparison_csv(rows: list[dict[str, Any]]) -> str:
    """The rows as CSV; a value that was not measured is empty."""
    columns = ("key", "quantity", "direct", "inter_dense", "difference", *_SPREADS)
    return rows_csv(rows, columns)


def _claims(
    parameters: Parameters, rows: list[dict[str, Any]], direct: Measured, dense: Measured
) -> list[tuple[str, str]]:
    encoder = parameters.encoder
    before, after = direct["cost"], dense["cost"]
    removed = direct["encoder"]["params"] - dense["encoder"]["params"]
    verb = "removes" if removed >= 0 else "adds"
    flattened, latent = direct["encoder"]["flattened"], encoder.latent_size
    batch = before["batch_size"]
    by_key = {row["key"]: row for row in rows}
    seconds = by_key["cost.seconds_per_epoch"]

    def peaks(key: str, *, form: str) -> str:
        without, with_layer = (by_key[key][variant] for variant in VARIANTS)
        saved = without - with_layer
        return (
            f"{without:{form}} MiB without the layer, {with_layer:{form}} MiB with it: it "
            f"{'saves' if saved >= 0 else 'costs'} {abs(saved):{form}} MiB"
        )

    estimated = peaks("cost.estimated_peak_mib", form=",.1f")
    measured = peaks("cost.peak_memory_mib", form=",.0f")

    def speed(cost: Measured) -> str:
        low, high = (cost[f"images_per_second_{side}_quartile"] for side in ("lower", "upper"))
        return f"{cost['images_per_second']:,.0f} ({low:,.0f} to {high:,.0f})"

    def distance(measured: Measured, section: str) -> str:
        value = measured[section]["frechet_distance"]
        return "not measured" if value is None else f"{value:.2f}"

    def gain(cost: Measured) -> str:
        double = cost["images_per_second_double_batch"]
        if double is None:
            return "not measured, because the memory is too small"
        return f"{double / cost['images_per_second']:.2f} times"

    return [
        (
            "1. An extra Dense layer reduces the Encoder's parameters (latent size 256: 5.11 "
            "million without it, 2.88 with 256 units, 4.13 with 384), and so saves VRAM.",
            f"{direct['encoder']['params']:,} parameters without the layer, "
            f"{dense['encoder']['params']:,} with {encoder.inter_dense:,} units at latent size "
            f"{latent:,}: the layer {verb} {abs(removed):,} weights (it removes weights up to "
            f"{break_even(parameters):,} units). Estimated peak of a training step at batch "
            f"{parameters.train.batch_size:,}: {estimated}. Measured peak "
            f"memory of training on {after['machine']['device']}: {measured}.",
        ),
        (
            "2. The layer saves no time: about 120 s per epoch of 170,000 images at batch 128 on "
            "a GTX 960, with and without it.",
            f"{seconds['direct']:.1f} s per epoch without the layer, "
            f"{seconds['inter_dense']:.1f} s with it (training steps alone). Images per second at "
            f"batch {batch:,}, with the quartiles over a few steps: {speed(before)} without, "
            f"{speed(after)} with it. The variants were measured one after the other, so a "
            f"difference within the quartiles means nothing.",
        ),
        (
            "3. Batch 256 is hardly faster than batch 128.",
            f"Images per second at batch {2 * batch:,} over those at batch {batch:,}: without the "
            f"layer {gain(before)}, with it {gain(after)}.",
        ),
        (
            "4. Images from random latent codes look no worse (judged by eye).",
            f"By eye: compare reports/direct/samples.png with reports/inter_dense/samples.png. "
            f"Both come from the same draws of N(0, I), transformed to each variant's own prior "
            f"if one is fitted. In numbers, from one training each: Frechet distance to real "
            f"images of samples from N(0, I), as in the post, {distance(direct, 'samples_normal')} "
            f"without the layer, {distance(dense, 'samples_normal')} with it; of samples from the "
            f"prior {distance(direct, 'samples')} without, {distance(dense, 'samples')} with it. "
            f"PSNR of held-out reconstructions {direct['test']['psnr']:.2f} dB without, "
            f"{dense['test']['psnr']:.2f} dB with it. Pairs of trainings on real faces, with "
            f"confidence intervals: reports/studies/extra_layer.md.",
        ),
        (
            "5. Three conv layers of stride 2 instead of four enlarge the flattened layer by a "
            "factor of 4; fewer layers need larger strides.",
            f"This run: {len(encoder.filters)} layers with strides "
            f"{' '.join(map(str, encoder.strides))} flatten to {flattened:,} units. Other depths "
            f"were not part of it; `dvc exp run` trains them.",
        ),
        (
            "6. Announced for later: a VAE with a tiny KL loss beside a plain autoencoder.",
            f"Not part of this run: its KL weight is {parameters.loss.kl_weight:g}, and "
            f"{direct['test']['active_units']} (direct) and {dense['test']['active_units']} "
            f"(inter_dense) of {latent:,} latent units are active. Measured in "
            f"reports/studies/kl_weights.md.",
        ),
    ]


def comparison_markdown(
    parameters: Parameters, rows: list[dict[str, Any]], direct: Measured, inter_dense: Measured
) -> str:
    """The whole report: the rows, the claims and the parameters."""

    def show(row: dict[str, Any], column: str) -> str:
        value = row[column]
        if value is None:
            return "not measured"
        form = row["form"].replace("{:", "{:+") if column == "difference" else row["form"]
        return form.format(value)

    def spread(row: dict[str, Any]) -> str:
        if None in (row[column] for column in _SPREADS):
            return ""
        return ", ".join(show(row, column) for column in _SPREADS)

    columns = ("direct", "inter_dense", "difference")
    cells = [
        [row["quantity"], *(show(row, column) for column in columns), spread(row)] for row in rows
    ]
    table = markdown_table(cells, ["metric", *columns, "spread over draws"])
    claims = markdown_table(
        _claims(parameters, rows, direct, inter_dense),
        ["the post (2022)", "this run"],
        ["left", "left"],
    )
    settings = markdown_table(
        [[f"`{key}`", _as_yaml(value)] for key, value in _flat(parameters)],
        ["key", "value"],
        ["left", "left"],
    )
    machines = [measured["cost"]["machine"] for measured in (direct, inter_dense)]
    devices = dict.fromkeys(machine["device"] for machine in machines)
    return f"""\
# An extra Dense layer in the Encoder: with and without

`direct` has no extra layer. `inter_dense` has one, of {parameters.encoder.inter_dense:,} units
between Flatten and the mu and log_var heads. Measured on {direct["test"]["images"]:,} test images
of `{parameters.data.source}`, one training each (seed {parameters.train.seed}), on \
{" and ".join(devices)}.

The same parameters give the same bytes on the same machine, which means: the same \
{", ".join(f"{_MACHINE_KEYS.get(key, key)} ({value})" for key, value in machines[0].items())}.

**A difference in this table may be chance: each variant was trained once.** Another seed, or
another kind of processor, changes every figure of quality; by how much, this run has not measured.
docs/metrics.md says how far apart some trainings were.

Figures of samples are means over {direct["samples"]["draws"]} draws of \
{direct["samples"]["count"]:,} images each, from the prior `{parameters.generate.prior}` or from
N(0, I). Their spread over draws is the standard deviation over these, of direct and of inter_dense.
It says how far one draw can be off, and nothing of other trainings. Other real images are those of
the validation split in the place of samples: what a perfect model would reach. All are compared
with as many images of the test split. Samples are the Decoder's means of p(x|z), without the noise
that the likelihood has.

{table}

## The post's claims, and what this run measured

The post: "Variational Autoencoder with Tensorflow - XII - save some VRAM by an extra Dense layer in
the Encoder" (2022). Its claims in our words:

{claims}

## Parameters of this run

{settings}
"""


# How the keys of a machine's record are written.
_MACHINE_KEYS = {
    "instruction_sets": "instruction sets",
    "onednn": "oneDNN",
    "python": "Python",
    "tensorflow": "TensorFlow",
    "keras": "Keras",
    "numpy": "NumPy",
}


def _as_yaml(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _flat(parameters: Parameters) -> list[tuple[str, Any]]:
    def walk(prefix: str, value: Any):
        if isinstance(value, dict):
            for key, member in value.items():
                yield from walk(f"{prefix}.{key}" if prefix else key, member)
        else:
            yield prefix, value

    return list(walk("", parameters.model_dump()))
