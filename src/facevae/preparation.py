"""CelebA's JPEGs to shards of small square images, one pure task per shard."""

import dataclasses
import io
import json
import multiprocessing
import os
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from facevae.celeba import PARTITION, SPLITS, ImageStore, check_source, read_partition
from facevae.errors import UserError
from facevae.files import written_whole
from facevae.shards import MANIFEST, encode_example, frame_record

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}


@dataclasses.dataclass(frozen=True)
class ImageSettings:
    """How a JPEG becomes a record.

    Attributes:
        crop: side of the centred square that is cut out, pixels; "none" squeezes the whole image.
        resize: name of the resampling filter.
        image_size: side of the result, pixels.
    """

    crop: int | str
    resize: str
    image_size: int


@dataclasses.dataclass(frozen=True)
class ShardTask:
    """All that one shard is made from; plain data, so that any process anywhere can do it."""

    source: str
    target: str
    names: tuple[str, ...]
    settings: ImageSettings


def square_image(jpeg: bytes, settings: ImageSettings) -> bytes:
    """Decode, crop and resize one image.

    Returns:
        image_size * image_size * 3 bytes, uint8 RGB.

    Raises:
        UserError: not an image, cut short, or smaller than the crop.
    """
    try:
        with Image.open(io.BytesIO(jpeg)) as file:
            image = file.convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise UserError(f"cannot be read as an image ({error})") from None
    if settings.crop != "none":
        crop = int(settings.crop)
        width, height = image.size
        if width < crop or height < crop:
            raise UserError(f"is {width}x{height} pixels, smaller than data.crop {crop}")
        left, top = (width - crop) // 2, (height - crop) // 2
        image = image.crop((left, top, left + crop, top + crop))
    side = (settings.image_size, settings.image_size)
    return image.resize(side, _FILTERS[settings.resize]).tobytes()


def write_shard(task: ShardTask) -> int:
    """Do one task.

    Returns:
        The number of images written.

    Raises:
        UserError: an image of the shard cannot be used.
    """
    store = ImageStore(Path(task.source))
    try:
        with open(task.target, "wb") as shard:
            for name in task.names:
                try:
                    image = square_image(store.read(name), task.settings)
                except UserError as error:
                    raise UserError(f"{store.path}: {name}: {error}") from None
                shard.write(frame_record(encode_example({"image": image, "name": name.encode()})))
    finally:
        store.close()
    return len(task.names)


def local_executor() -> Executor:
    """One worker process per core."""
    # Spawned, not forked: a fork of a process with threads can hang.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(os.cpu_count(), mp_context=context)


def prepare(
    source: Path,
    target: Path,
    settings: ImageSettings,
    *,
    limits: Mapping[str, int | None],
    images_per_shard: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Write the shards of every split, and their manifest, into the folder `target`.

    Args:
        source: folder in CelebA's layout.
        target: replaced when everything is written, and untouched until then.
        settings: crop, filter and size.
        limits: at most so many images per split, the first by name; None for all.
        images_per_shard: the last shard of a split may hold fewer.
        progress: called with (images done, images in all) after each shard.

    Returns:
        The manifest; see `facevae.shards`.

    Raises:
        UserError: the source cannot be used as it is.
    """
    check_source(source)
    partition = read_partition(source / PARTITION)
    store = ImageStore(source)
    store.close()
    missing = [name for names in partition.values() for name in names if name not in store.names]
    if missing:
        raise UserError(
            f"{store.path}: lacks {len(missing)} images that {PARTITION} names: "
            f"{', '.join(missing[:20])}{', ...' if len(missing) > 20 else ''}"
        )
    chosen = {split: partition[split][: limits[split]] for split in SPLITS}
    for split, names in chosen.items():
        if not names:
            raise UserError(f"{source / PARTITION}: no image belongs to the {split} split")
    total = sum(len(names) for names in chosen.values())

    named = {name for names in partition.values() for name in names}
    manifest: dict[str, Any] = {
        "settings": dataclasses.asdict(settings),
        "splits": {},
        "skipped": {
            "beyond_limit": {split: len(partition[split]) - len(chosen[split]) for split in SPLITS},
            "not_in_partition": len(store.names - named),
        },
    }
    tasks = []
    with written_whole(target) as folder:
        folder.mkdir()
        for split, names in chosen.items():
            parts = [
                tuple(names[start : start + images_per_shard])
                for start in range(0, len(names), images_per_shard)
            ]
            shards = []
            for number, part in enumerate(parts):
                file = f"{split}-{number:05d}-of-{len(parts):05d}.tfrecord"
                shards.append({"file": file, "images": len(part)})
                tasks.append(ShardTask(str(source), str(folder / file), part, settings))
            manifest["splits"][split] = {"images": len(names), "shards": shards}
        with local_executor() as executor:
            futures = [executor.submit(write_shard, task) for task in tasks]
            done = 0
            try:
                for future in as_completed(futures):
                    done += future.result()
                    progress(done, total)
            except BaseException:
                executor.shutdown(cancel_futures=True)
                raise
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return manifest
