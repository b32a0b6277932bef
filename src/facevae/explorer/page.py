"""A page in which both Decoders draw faces: one file with all that it needs, scripts and weights.

The texts are in `explorer.html.j2`; `decoder.js` computes what `decoder.py` describes, and
`controls.js` makes latent codes of what the controls say.
"""

import base64
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import numpy as np
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from facevae.common.parameters import Parameters
from facevae.explorer.decoder import decoder_layers, quantized
from facevae.latent.gallery import labelled_directions
from facevae.latent.generation import mean_codes
from facevae.latent.priors import Prior
from facevae.model.vae import VAE
from facevae.reports.terms import terms_of_images
from facevae.shards.batches import Shards, StoredImages

MOST_BYTES = 10_000_000  # of a page that is still easy to open and to pass on
_HELD_OUT = 8  # faces to choose from

_TEMPLATES = Environment(
    loader=ChoiceLoader([PackageLoader(f"facevae.{name}", "") for name in ("explorer", "reports")]),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def _content(vae: VAE, prior: Prior, shards: Shards, attributes: list[str]) -> dict[str, Any]:
    """What the page holds of one variant, for JSON. Arrays are in Base64, little-endian.

    Args:
        attributes: whose directions are computed, of those of the shards.

    Returns:
        `layers`, as `facevae.explorer.decoder.Layer` without its arrays, which are one after the
        other in `weights` (int8), `scales` and `biases` (float32); `prior`, None if it is N(0, I);
        `held_out`, the means of q(z|x) of the first faces of the test split; and `directions` of
        the attributes (float32).
    """
    layers, weights, scales, biases = [], [], [], []
    for layer in decoder_layers(vae.decoder):
        side, _, outputs, inputs = layer.kernel.shape
        whole, scale = quantized(layer.kernel)
        layers.append(
            {
                "size": layer.size, "side": side, "inputs": inputs, "outputs": outputs,
                "stride": layer.stride, "resize": layer.resize, "residual": layer.residual,
                "activation": layer.activation,
            }
        )  # fmt: skip
        weights.append(whole.ravel())
        scales.append(scale)
        biases.append(layer.bias)
    faces = StoredImages(shards, "test", range(min(_HELD_OUT, shards.counts["test"])))
    directions = labelled_directions(vae, shards, attributes) if attributes else np.zeros(0)
    return {
        "layers": layers,
        "weights": _base64(np.concatenate(weights), "i1"),
        "scales": _base64(np.concatenate(scales), "<f4"),
        "biases": _base64(np.concatenate(biases), "<f4"),
        "prior": None if prior.is_standard_normal else _prior_content(prior),
        "held_out": _base64(mean_codes(vae, faces), "<f4"),
        "directions": _base64(directions, "<f4"),
    }


def _base64(array: np.ndarray, kind: str) -> str:
    return base64.b64encode(array.astype(kind).tobytes()).decode()


def _prior_content(prior: Prior) -> dict[str, Any]:
    # float16 ends at 65,504 and is less exact below 0.00006: so the largest number becomes 1.
    scales = np.abs(prior.factors).max(axis=(1, 2))
    rows, columns = np.tril_indices(prior.means.shape[1])
    triangles = (prior.factors / scales[:, None, None])[:, rows, columns]
    return {
        "weights": prior.weights.tolist(),
        "means": _base64(prior.means, "<f4"),
        "scales": scales.tolist(),
        "triangles": _base64(triangles, "<f2"),
    }


def explorer_html(
    parameters: Parameters, shards: Shards, variants: Mapping[str, tuple[VAE, Prior]]
) -> str:
    """The page.

    Args:
        variants: by name, each with its prior; all with the same size of images and of codes.
    """
    attributes = parameters.generate.attributes if shards.attributes else []
    named = "generate.attributes names none." if shards.attributes else "the data has no labels."
    contents = [
        {"name": name, **_content(vae, prior, shards, attributes)}
        for name, (vae, prior) in variants.items()
    ]
    vae, prior = next(iter(variants.values()))
    scripts = [
        Markup((files(__package__) / name).read_text(encoding="utf-8"))
        for name in ("decoder.js", "controls.js")
    ]
    return _TEMPLATES.get_template("explorer.html.j2").render(
        terms=terms_of_images(parameters.data),
        models={
            "image_size": vae.image_size,
            "latent_size": vae.latent_size,
            "held_out": min(_HELD_OUT, shards.counts["test"]),
            "attributes": attributes,
            "variants": contents,
        },
        fitted=not prior.is_standard_normal,
        reason=named,
        shapes=_shapes(contents[0]["layers"]),
        scripts=scripts,
    )


def _shapes(layers: list[dict[str, Any]]) -> list[tuple[int, ...]]:
    """What goes into each layer, and what comes out of the last."""
    into = [(layer["size"], layer["inputs"]) for layer in layers[1:]]
    last = layers[-1]
    out = last["size"] * last["stride"], last["outputs"]
    return [(layers[0]["inputs"],), *((side, side, channels) for side, channels in (*into, out))]
