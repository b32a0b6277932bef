"""What the figures of generated images cost: seconds and memory of each, for two sets of images.

The images are noise, which takes as long as faces do. Inception, which takes hundreds of times as
long as the attribute network, sees a few of them only, and its time is reckoned up.
"""

import argparse
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil

PROJECT = Path(__file__).resolve().parent.parent
SIDE = 96  # params.yaml's
INCEPTION_IMAGES = 64


def measured(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds, and MiB that this process takes at most above what it had before."""
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
    return seconds, (peak - before) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000, help="in each set")
    count = parser.parse_args().images
    from facevae.common.runtime import load_tensorflow

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
    print(f"| two sets of {count:,} images of {SIDE} pixels | seconds | MiB above the sets |")
    print("| --- | ---: | ---: |")
    for name, work in (
        ("attribute features, each set", lambda: features(network, made)),
        ("Frechet distance", lambda: frechet_distance(of_real, of_made)),
        ("precision and recall", lambda: precision_and_recall(of_real, of_made)),
        ("sharpness, each set", lambda: sharpness(made)),
        ("MS-SSIM between images, each set", lambda: diversity(made)),
        ("sliced Wasserstein distance", lambda: sliced_wasserstein(real, made)),
    ):
        seconds, memory = measured(work)
        print(f"| {name} | {seconds:,.1f} | {memory:,.0f} |", flush=True)
    inception = keras.applications.InceptionV3(include_top=False, weights=None, pooling="avg")
    few = made[:INCEPTION_IMAGES]
    inception_features(inception, few)
    seconds, memory = measured(lambda: inception_features(inception, few))
    whole = seconds * count / len(few)
    print(
        f"| Inception's features, each set, from {len(few)} images | {whole:,.0f} | {memory:,.0f} |"
    )
    wide = [random.standard_normal((count, 2048)) for _ in range(2)]
    seconds, memory = measured(lambda: frechet_distance(*wide))
    print(f"| FID of them | {seconds:,.1f} | {memory:,.0f} |")


if __name__ == "__main__":
    main()
