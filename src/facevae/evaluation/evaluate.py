"""All metrics of a trained VAE that are the same on every run, as one nested dict.

`FAMILIES` lists the families of metrics: which section of the dict each fills, in which order, and
what it is computed from. A family is a function or a class in a module beside this one, whose
docstring names its metrics.

To add a metric, add it to what its family returns. To add a family, write its file and add its line
to `FAMILIES`. Nothing else here changes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facevae.evaluation.attribute_classifier import AttributeClassifier
from facevae.evaluation.feature_metrics import attribute_feature_metrics, inception_metrics
from facevae.evaluation.image_metrics import (
    ReconstructionQuality,
    diversity_metrics,
    sharpness_metrics,
)
from facevae.evaluation.inputs import (
    ImageSets,
    Inputs,
    SplitMetrics,
    image_sets,
    reconstructed_batches,
)
from facevae.evaluation.latent_units import LatentUnits
from facevae.evaluation.likelihood import LossTerms, RateAndDistortion
from facevae.evaluation.sizes import decoder_sizes, encoder_sizes, set_sizes
from facevae.evaluation.sliced_wasserstein import sliced_wasserstein_metrics
from facevae.latent.priors import Prior
from facevae.model.vae import VAE
from facevae.shards.batches import Shards


@dataclass(frozen=True)
class OfNetworks:
    """A family computed from the VAE alone."""

    section: str
    metrics: Callable[[VAE], dict[str, Any]]


@dataclass(frozen=True)
class OfTestSplit:
    """A family computed from the test split and its reconstructions, batch by batch."""

    section: str
    metrics: type[SplitMetrics]


@dataclass(frozen=True)
class OfImageSets:
    """A family computed from whole sets of samples and real images."""

    section: str
    metrics: Callable[[ImageSets], dict[str, Any]]


FAMILIES: tuple[OfNetworks | OfTestSplit | OfImageSets, ...] = (
    OfNetworks("encoder", encoder_sizes),
    OfNetworks("decoder", decoder_sizes),
    OfTestSplit("test", LossTerms),
    OfTestSplit("test", ReconstructionQuality),
    OfTestSplit("test", LatentUnits),
    OfTestSplit("test", RateAndDistortion),
    OfImageSets("samples", set_sizes),
    OfImageSets("samples", attribute_feature_metrics),
    OfImageSets("samples", inception_metrics),
    OfImageSets("samples", sliced_wasserstein_metrics),
    OfImageSets("samples", sharpness_metrics),
    OfImageSets("samples", diversity_metrics),
)


def _rounded(value: Any) -> Any:
    """Numbers to 6 decimals, also those in dicts; integers and None as they are."""
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    return value if value is None or isinstance(value, int) else round(float(value), 6)


def evaluate(
    vae: VAE,
    shards: Shards,
    *,
    batch_size: int,
    prior: Prior | None = None,
    attribute_classifier: AttributeClassifier | None = None,
    inception_weights: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Compute all metrics of `FAMILIES`.

    Args:
        batch_size, prior, attribute_classifier, inception_weights: as in
            `facevae.evaluation.inputs.Inputs`.
        progress: called with (images done, images in all) after each batch of the test split.

    Returns:
        Sections with metrics by name, in the order of `FAMILIES`, rounded to 6 decimals. A metric
        that is not defined, for the loss or for images of this size, is None. In the section
        `samples`, a name that ends in `_floor` is the real-data reference of the metric before it.

    Raises:
        UserError: `inception_weights` cannot be used.
    """
    inputs = Inputs(vae, shards, batch_size, prior, attribute_classifier, inception_weights)
    of_test_split = {
        family: family.metrics(inputs) for family in FAMILIES if isinstance(family, OfTestSplit)
    }
    done = 0
    for batch in reconstructed_batches(inputs):
        for metrics in of_test_split.values():
            metrics.update(batch)
        done += len(batch.images)
        progress(done, shards.counts["test"])

    sets = image_sets(inputs)
    found: dict[str, Any] = {}
    for family in FAMILIES:
        match family:
            case OfNetworks():
                values = family.metrics(vae)
            case OfTestSplit():
                values = of_test_split[family].result()
            case OfImageSets():
                values = family.metrics(sets)
        found.setdefault(family.section, {}).update(values)
    return _rounded(found)
