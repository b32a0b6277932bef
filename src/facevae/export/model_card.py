"""The card beside a model: what it was made of and how, how good it is, and its limits."""

import math
from collections.abc import Mapping
from typing import Any

import yaml

import facevae
from facevae.common.parameters import Data, Train
from facevae.common.tables import markdown_table
from facevae.model.vae import VAE
from facevae.reports.terms import kind_of_images

_TERMS = {
    "drawn": "The faces are drawn by this project's own code. They show nobody, and "
    "nobody's terms restrict this model.",
    "celeba": "The images are taken for CelebA (Z. Liu et al., ICCV 2015; "
    "<https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html>): photographs of real people, for "
    "non-commercial research only, which may not be passed on. Its terms forbid the commercial use "
    "of what is derived from the images, too. Use this model for non-commercial research only, and "
    "publish neither it nor reconstructions without being sure that these terms allow it.",
    "own": "The images are your own pictures. A model may show what it was trained on: pass it on "
    "only as you would pass on the pictures themselves.",
}

_LIMITS = {
    "drawn": "It knows drawn faces. Of a photograph it makes a drawn face.",
    "celeba": "CelebA shows celebrities, most of them young, light-skinned and smiling; its labels "
    "are judgements of people who looked. The model has these leanings, and reconstructs others "
    "less well.",
    "own": "It knows the kind of pictures that it was trained on, and whatever is rare among them "
    "it reconstructs less well.",
}

_USE = """\
import numpy as np
import onnxruntime

encoder = onnxruntime.InferenceSession("{variant}_encoder.onnx")
decoder = onnxruntime.InferenceSession("{variant}_decoder.onnx")
images = np.zeros((1, {size}, {size}, 3), np.float32)  # yours
mu, log_var = encoder.run(None, {{"images": images}})
(reconstructions,) = decoder.run(None, {{"z": mu}})

prior = np.load("{variant}_prior.npz")  # k Gaussians
k = np.random.choice(len(prior["weights"]), p=prior["weights"].astype(float))
epsilon = np.random.standard_normal({latent}).astype(np.float32)
z = prior["means"][k] + prior["factors"][k] @ epsilon
(samples,) = decoder.run(None, {{"z": z[None]}})"""


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, float | None]:
    """Nested metrics with names such as kl_per_unit.median; also null ones."""
    found: dict[str, float | None] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{before}{name}.")
        else:
            found[f"{before}{name}"] = value
    return found


def _number(value: float | None) -> str:
    if value is None:
        return ""
    if isinstance(value, int):
        return f"{value:,}"
    digits = 3 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:,.{min(max(digits, 0), 6)}f}"


def _quality(metrics: Mapping[str, Any]) -> str:
    found = _flat(metrics["test"]).items()
    rows = [[f"`{name}`", _number(value)] for name, value in found if value is not None]
    return markdown_table(rows, ["metric", "held-out images"])


def _samples(metrics: Mapping[str, Any]) -> str:
    sections = ("samples", "samples_spread", "samples_normal", "real_images")
    columns = [_flat(metrics[section]) for section in sections]
    # The spread of a metric with several values is that of their mean.
    columns[1] |= {f"{name}.mean": value for name, value in columns[1].items()}
    rows = [
        [f"`{name}`", *(_number(column.get(name)) for column in columns)]
        for name in columns[0]
        if columns[0][name] is not None and name not in ("count", "draws")
    ]
    headers = ["metric", "samples", "their spread", "samples from N(0, I)", "real images"]
    return markdown_table(rows, headers)


def model_card(
    variant: str, vae: VAE, data: Data, train: Train, metrics: Mapping[str, Any], code: str
) -> str:
    """The card as Markdown.

    Args:
        variant: its name, which the names of the files begin with.
        data, train: the sections of the parameters with which this model was trained.
        metrics: what evaluate wrote for it.
        code: the commit of the code that writes the card, or that there is none.
    """
    kind = kind_of_images(data)
    size, latent = vae.image_size, vae.latent_size
    images = f"`images` (batch, {size}, {size}, 3), in [0, 1], red green blue"
    codes = f"(batch, {latent})"
    files = [
        [f"`{variant}.keras`", "the whole model for this project and Keras", "", ""],
        [f"`{variant}_encoder.onnx`", "Encoder", images, f"`mu`, `log_var` {codes}"],
        [f"`{variant}_decoder.onnx`", "Decoder", f"`z` {codes}", images],
        [f"`{variant}_prior.npz`", "the distribution that samples are drawn from", "", ""],
    ]  # fmt: skip
    sizes = [f"{part} {metrics[part.lower()]['params']:,}" for part in ("Encoder", "Decoder")]
    units = vae.encoder_settings.inter_dense
    layer = f"with an extra Dense layer of {units:,} units" if units else "without an extra layer"
    settings = {
        "data": data.model_dump(), "encoder": vae.encoder_settings.model_dump(),
        "decoder": vae.decoder_settings.model_dump(), "loss": vae.loss_settings.model_dump(),
        "train": train.model_dump(),
    }  # fmt: skip
    return f"""\
# {variant}: a variational autoencoder for images of faces

{size}x{size} pixels, {latent:,} latent units, {layer} in the Encoder.
Parameters: {", ".join(sizes)}. Written by `make export` of facevae {facevae.__version__},
{code}.

## Data and its terms

{_TERMS[kind]}

Trained on the images of `data.source`, {data.source}, cropped and resized as the settings say.

## Files

{markdown_table(files, ["file", "what", "takes", "gives"], ["left"] * 4)}

The ONNX files compute in float32 and take any number of images. mu and log_var are those of
q(z|x). Before you encode an image, crop and resize it as the training images were: section `data`
of the settings. With NumPy and onnxruntime:

```python
{_USE.format(variant=variant, size=size, latent=latent)}
```

## Metrics

Measured on the test split, on which nothing was trained. docs/metrics.md of facevae says what each
metric sees.

{_quality(metrics)}

{_samples(metrics)}

`real_images` are images of the validation split in the place of samples: what can be reached.

## Limits

- {_LIMITS[kind]}
- Reconstructions are smooth: fine texture is lost. What they show need not have been there.
- It is not made to recognise, to compare or to judge people.
- The direction of an attribute holds whatever goes along with the attribute in the data.
- One training with one seed. Another seed gives other figures: docs/results.md has their spread.

## Settings

```yaml
{yaml.safe_dump(settings, sort_keys=False, default_flow_style=None, width=100).rstrip()}
```
"""
