"""Crop and resize a folder in CelebA's layout into TFRecord shards, one set per split."""

from _stage import arguments, counting, run
from facevae.preparation import ImageSettings, prepare


def main() -> None:
    options, parameters = arguments(
        __doc__,
        source={"help": "folder in CelebA's layout"},
        shards={"help": "folder to write the shards and their manifest into"},
    )
    data = parameters.data
    with counting("Preparing images", " images") as progress:
        prepare(
            options.source,
            options.shards,
            ImageSettings(crop=data.crop, resize=data.resize, image_size=data.image_size),
            limits={
                "train": data.limit.train,
                "validation": data.limit.validation,
                "test": data.limit.test,
            },
            images_per_shard=data.images_per_shard,
            progress=progress,
        )


if __name__ == "__main__":
    run(main)
