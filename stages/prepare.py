"""Crop and resize the images of data.source, into TFRecord shards per split."""

from _stage import arguments, run
from facevae.common.files import write_json
from facevae.common.runtime import counting
from facevae.data.preparation import prepare


def main() -> None:
    options, parameters = arguments(
        __doc__,
        shards="folder to write the shards and their manifest into",
        metrics="JSON file to write: how many images were prepared, and how many left out",
    )
    with counting("Preparing images", " images") as progress:
        manifest = prepare(parameters.data, options.shards, progress=progress)
    skipped = manifest["skipped"]
    write_json(
        options.metrics,
        {
            "images": {split: entry["images"] for split, entry in manifest["splits"].items()},
            "beyond_limit": sum(skipped["beyond_limit"].values()),
            "bad": len(skipped["bad"]),
        },
    )


if __name__ == "__main__":
    run(main)
