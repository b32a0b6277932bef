"""Write one HTML page in which the Decoders of both variants draw faces."""

import sys

from _stage import arguments, run
from facevae.common.files import write_text
from facevae.common.parameters import VARIANTS
from facevae.common.runtime import load_tensorflow


def main() -> None:
    options, parameters = arguments(__doc__, "models", "shards", html="HTML page to write")
    load_tensorflow()
    from facevae.common.runtime import enable_determinism
    from facevae.explorer.page import MOST_BYTES, explorer_html
    from facevae.latent.priors import load_prior
    from facevae.model.saving import load_model
    from facevae.shards.batches import Shards

    enable_determinism(0)
    variants = {}
    with Shards(options.shards) as shards:
        for name in VARIANTS:
            vae = load_model(options.models / f"{name}.keras", shards.image_size)
            prior = load_prior(options.models / f"{name}_prior.npz", vae.latent_size)
            variants[name] = vae, prior
        html = explorer_html(parameters, shards, variants)
    write_text(options.html, html)
    if (size := options.html.stat().st_size) > MOST_BYTES:
        print(
            f"{options.html}: has {size / 1e6:.1f} MB, because it holds the weights of both "
            f"Decoders; above {MOST_BYTES / 1e6:.0f} MB, a browser takes long to open it",
            file=sys.stderr,
        )


if __name__ == "__main__":
    run(main)
