"""Crop and resize a folder in CelebA's layout into TFRecord shards, one set per split."""

from pathlib import Path

from _stage import arguments, run
from facevae.common.files import write_json
from facevae.common.runtime import counting
from facevae.data.preparation import ImageSettings, prepare


def main() -> None:
    options, parameters = arguments(
        __doc__,
        shards="folder to write the shards and their manifest into",
        metrics="JSON to write: how many images there are, and how many were left out",
    )
    data = parameters.data
    with counting("Preparing images", " images") as progress:
        manifest = prepare(
            Path(data.source),
            options.shards,
            ImageSettings(data.crop, data.resize, data.image_size, data.record_format),
            limits=data.limit.model_dump(),
            images_per_shard=data.images_per_shard,
            on_bad_image=data.on_bad_image,
            max_bad_share=data.max_bad_share,
            progress=progress,
        )
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
