"""All metrics of a trained VAE that are the same on every run, as one nested dict.

`FAMILIES` lists the families of metrics: which section of the dict each fills, in which order, and
what it is computed from. A family is a function or a class in a module beside this one, whose
docstring names its metrics.

To add a metric, add it to what its family returns. To add a family, write its file and add its line
to `FAMILIES`. Nothing else here changes.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facevae.evaluation.attribute_classifier import AttributeClassifier
from facevae.evaluation.face_metrics import FacesOfSamples, ReconstructedFaces
from facevae.evaluation.feature_metrics import AttributeFeatures, InceptionFeatures
from facevae.evaluation.grid import GridOfSamples, ReconstructionGrid
from facevae.evaluation.image_metrics import Diversity, ReconstructionQuality, Sharpness
from facevae.evaluation.inputs import (
    DRAWS,
    Inputs,
    SampleMetrics,
    SplitMetrics,
    real_sets,
    reconstructed_batches,
    sample_sets,
)
from facevae.evaluation.latent_units import LatentUnits
from facevae.evaluation.likelihood import LossTerms, RateAndDistortion
from facevae.evaluation.sizes import decoder_sizes, encoder_sizes
from facevae.evaluation.sliced_wasserstein import SlicedWassersteinDistances
from facevae.latent.priors import Prior
from facevae.model.vae import VAE
from facevae.shards.batches import Shards
from facevae.shards.blocks import Images


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
class OfSamples:
    """A family computed from whole sets of samples, each compared with the same real images."""

    metrics: type[SampleMetrics]


FAMILIES: tuple[OfNetworks | OfTestSplit | OfSamples, ...] = (
    OfNetworks("encoder", encoder_sizes),
    OfNetworks("decoder", decoder_sizes),
    OfTestSplit("test", LossTerms),
    OfTestSplit("test", ReconstructionQuality),
    OfTestSplit("test", ReconstructionGrid),
    OfTestSplit("test", ReconstructedFaces),
    OfTestSplit("test", LatentUnits),
    OfTestSplit("test", RateAndDistortion),
    OfSamples(AttributeFeatures),
    OfSamples(InceptionFeatures),
    OfSamples(FacesOfSamples),
    OfSamples(SlicedWassersteinDistances),
    OfSamples(GridOfSamples),
    OfSamples(Sharpness),
    OfSamples(Diversity),
)


def _rounded(value: Any) -> Any:
    """Numbers to 6 decimals, also those in dicts; integers and None as they are."""
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    return value if value is None or isinstance(value, int) else round(float(value), 6)


def _over_draws(draws: Sequence[Any], statistic: Callable[[Sequence[float]], Any]) -> Any:
    """A statistic of each metric, also of those in dicts, over draws; None if one is None."""
    if isinstance(draws[0], dict):
        return {name: _over_draws([draw[name] for draw in draws], statistic) for name in draws[0]}
    return None if None in draws else statistic(draws)


def _headlines(metrics: dict[str, Any]) -> dict[str, float | None]:
    """Of a metric that is a dict, its "mean" alone."""
    return {
        name: each["mean"] if isinstance(each, dict) else each for name, each in metrics.items()
    }


def sample_sections(inputs: Inputs) -> dict[str, dict[str, Any]]:
    """The families of `OfSamples`, for samples and for real images.

    Returns:
        samples: means over `DRAWS` sets of samples from the prior; count is the number of images in
            each set, also in those of real images, and draws that of the sets.
        samples_spread: their standard deviations over these sets. Of a metric with several levels,
            that of its mean.
        samples_normal, samples_normal_spread: the same of samples from N(0, I); equal to the first
            two if that is the prior.
        real_images: the real-data references: the metrics of the validation split's images.
    """
    sets = real_sets(inputs)
    families = [family.metrics(sets) for family in FAMILIES if isinstance(family, OfSamples)]

    def measured(images: Images) -> dict[str, Any]:
        return {name: each for family in families for name, each in family.of(images).items()}

    def drawn_from(prior: Prior | None) -> tuple[dict[str, Any], dict[str, Any]]:
        count = len(sets.real)
        draws = [measured(images) for images in sample_sets(inputs, prior, count)]
        means = _over_draws(draws, statistics.fmean)
        spread = _over_draws([_headlines(draw) for draw in draws], statistics.stdev)
        return {"count": count, "draws": DRAWS, **means}, spread

    of_normal = drawn_from(None)
    of_prior = of_normal if inputs.fitted_prior is None else drawn_from(inputs.fitted_prior)
    return {
        "samples": of_prior[0],
        "samples_spread": of_prior[1],
        "samples_normal": of_normal[0],
        "samples_normal_spread": of_normal[1],
        "real_images": measured(sets.reference),
    }


def evaluate(
    vae: VAE,
    shards: Shards,
    *,
    batch_size: int,
    prior: Prior | None = None,
    attribute_classifier: AttributeClassifier | None = None,
    inception_weights: Path | None = None,
    faces: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Compute all metrics of `FAMILIES`.

    Args:
        batch_size, prior, attribute_classifier, inception_weights, faces: as in
            `facevae.evaluation.inputs.Inputs`.
        progress: called with (images done, images in all) after each batch of the test split.

    Returns:
        Sections with metrics by name, rounded to 6 decimals. A metric that is not defined, for the
        loss or for images of this size, is None. `encoder`, `decoder` and `test` are those of
        `FAMILIES`; the sections of its samples are described in `sample_sections`.

    Raises:
        UserError: `inception_weights` cannot be used, or the packages for `faces` are missing.
    """
    inputs = Inputs(vae, shards, batch_size, prior, attribute_classifier, inception_weights, faces)
    of_test_split = {
        family: family.metrics(inputs) for family in FAMILIES if isinstance(family, OfTestSplit)
    }
    done = 0
    for batch in reconstructed_batches(inputs):
        for metrics in of_test_split.values():
            metrics.update(batch)
        done += len(batch.images)
        progress(done, shards.counts["test"])

    found: dict[str, Any] = {}
    for family in FAMILIES:
        match family:
            case OfNetworks():
                found.setdefault(family.section, {}).update(family.metrics(vae))
            case OfTestSplit():
                found.setdefault(family.section, {}).update(of_test_split[family].result())
    return _rounded({**found, **sample_sections(inputs)})
