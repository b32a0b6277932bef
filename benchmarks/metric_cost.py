"""What the metrics of generated images cost: seconds and memory of each, for two sets of images.

The images are noise, which takes as long as faces do. Inception takes hundreds of times as long as
the attribute network: it sees a few images only, and its time is extrapolated.
"""

import argparse
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import psutil

from benchmarks.harness import MIB, print_table
from facevae.common.runtime import load_tensorflow

SIDE = 96  # params.yaml's
INCEPTION_IMAGES = 64


def cost(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds, and MiB that this process takes at most above what it took before."""
    process, done = psutil.Process(), threading.Event()
    before = peak = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.02):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    return seconds, (peak - before) / MIB


def costs(count: int) -> Iterator[tuple[str, float, float]]:
    """Names of metrics with their seconds and MiB, for two sets of so many images."""
    load_tensorflow()
    import keras

    from facevae.evaluation.attribute_classifier import AttributeClassifier, features
    from facevae.evaluation.feature_metrics import frechet_distance, precision_and_recall
    from facevae.evaluation.image_metrics import diversity, sharpness
    from facevae.evaluation.inception import inception_features
    from facevae.evaluation.sliced_wasserstein import sliced_wasserstein

    random = np.random.default_rng(0)
    real, made = (random.random((count, SIDE, SIDE, 3), np.float32) for _ in range(2))
    network = AttributeClassifier(SIDE, 40)
    of_real, of_made = features(network, real), features(network, made)
    yield "attribute features, each set", *cost(lambda: features(network, made))
    yield "Frechet distance", *cost(lambda: frechet_distance(of_real, of_made))
    yield "precision and recall", *cost(lambda: precision_and_recall(of_real, of_made))
    yield "sharpness, each set", *cost(lambda: sharpness(made))
    yield "MS-SSIM between images, each set", *cost(lambda: diversity(made))
    yield "sliced Wasserstein distance", *cost(lambda: sliced_wasserstein(real, made))
    inception = keras.applications.InceptionV3(include_top=False, weights=None, pooling="avg")
    few = made[:INCEPTION_IMAGES]
    inception_features(inception, few)
    seconds, memory = cost(lambda: inception_features(inception, few))
    name = f"Inception's features, each set, from {len(few)} images"
    yield name, seconds * count / len(few), memory
    wide = [random.standard_normal((count, 2048)) for _ in range(2)]
    yield "FID of them", *cost(lambda: frechet_distance(*wide))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000, help="in each set")
    count = parser.parse_args().images
    print_table(
        [f"two sets of {count:,} images of {SIDE} pixels", "seconds", "MiB above the sets"],
        ((name, f"{seconds:,.1f}", f"{mib:,.0f}") for name, seconds, mib in costs(count)),
    )


if __name__ == "__main__":
    main()
