"""What the explorer of a finished run draws, beside Keras, and how long a face takes on one core.

    python -m benchmarks.explorer

opens reports/explorer.html in a headless Chromium, draws the same faces with it and with Keras, and
prints what it measures beside the bars; it ends with 1 if one is missed. A machine that is busy
gives other times.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from tabulate import tabulate

from benchmarks.browser import browser, missing, open_explorer
from facevae.common.errors import UserError
from facevae.common.parameters import VARIANTS
from facevae.common.runtime import load_tensorflow

PAGE = Path("reports/explorer.html")
FACES = 12  # of each variant and prior
MOST_MEGABYTES = 10.0
MOST_DIFFERENCE = 3.0  # of one value of a picture, in 1/255
MOST_MEAN_DIFFERENCE = 0.5
MOST_SECONDS = 0.3  # median of a face

# The codes, pictures and milliseconds of faces with numbers from 1, of one variant.
_DRAW = """
const [variant, fitted, count] = [variants[arguments[0]], arguments[1], arguments[2]];
return Array.from({ length: count }, (_, i) => {
  const code = latentCode(variant, { ...settings(), random: true, seed: i + 1, fitted });
  const start = performance.now();
  const picture = decode(variant.decoder, code);
  return [Array.from(code), Array.from(picture), performance.now() - start];
});
"""


def main() -> int:
    if lacking := missing():
        raise UserError(f"{lacking}; install Debian's packages chromium and chromium-driver")
    if not PAGE.is_file():
        raise UserError(f"{PAGE}: is not there; write it first: dvc repro explorer")
    load_tensorflow()
    from facevae.model.saving import load_model

    megabytes = PAGE.stat().st_size / 1e6
    rows = [("", "size of the page, MB", megabytes, MOST_MEGABYTES)]
    with tempfile.TemporaryDirectory() as folder, browser(Path(folder)) as driver:
        open_explorer(driver, PAGE)
        fitted = driver.execute_script("return variants.every(({ prior }) => prior)")
        for number, name in enumerate(VARIANTS):
            vae = load_model(Path(f"models/{name}.keras"))
            drawn = [
                face
                for prior in ([True, False] if fitted else [False])
                for face in driver.execute_script(_DRAW, number, prior, FACES)
            ]
            codes, pictures, times = zip(*drawn, strict=True)
            made = np.asarray(vae.decoder(np.asarray(codes, np.float32), training=False))
            difference = 255 * np.abs(made.reshape(len(made), -1) - np.asarray(pictures))
            of_mean = float(difference.mean(axis=1).max())
            rows += [
                (name, "largest difference, 1/255", float(difference.max()), MOST_DIFFERENCE),
                (name, "mean difference of a face, 1/255", of_mean, MOST_MEAN_DIFFERENCE),
                (name, "seconds of a face, median", float(np.median(times)) / 1e3, MOST_SECONDS),
                (name, "seconds of a face, shortest", min(times) / 1e3, MOST_SECONDS),
            ]
    lines = [
        (name, what, f"{value:.2f}", f"{most:g}", "" if value <= most else "missed")
        for name, what, value, most in rows
    ]
    head = ("variant", "explorer beside Keras", "measured", "at most", "")
    print(tabulate(lines, head, "simple"))
    return int(any(value > most for _, _, value, most in rows))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
