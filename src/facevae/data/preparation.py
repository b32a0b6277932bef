"""Convert CelebA's JPEGs to shards of small square images, one independent task per shard."""

import contextlib
import dataclasses
import io
import os
import uuid
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from facevae.common.errors import UserError
from facevae.common.files import atomic_write, exclusive_writer
from facevae.common.parameters import Data, Limit
from facevae.data.celeba import (
    ATTRIBUTES,
    PARTITION,
    SPLITS,
    ImageReader,
    check_source,
    list_images,
    read_attributes,
    read_partition,
    store_path,
)
from facevae.data.executors import default_executor, run_tasks
from facevae.shards.records import (
    crc32c,
    encode_example,
    frame_record,
    shard_ends,
    write_manifest,
)

ALIGNED_SIZE = (178, 218)  # width and height of CelebA's aligned images
# A larger image is refused before it is decoded: its pixels would take more than 100 MB.
_MAX_PIXELS = 2**25
_JPEG_QUALITY = 95
_LISTED = 20

# What the records depend on, and the manifest says.
_OF_RECORDS = {"crop", "resize", "image_size", "record_format"}

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}


@dataclasses.dataclass(frozen=True)
class ShardTask:
    """The input of `write_shard`: plain data that can be sent to another process or machine.

    Attributes:
        settings: `source` is an absolute path.
        target: the file to write.
        images: the images of the shard, rows of `facevae.data.celeba.list_images`.
    """

    settings: Data
    target: str
    images: np.ndarray


@dataclasses.dataclass(frozen=True)
class ShardResult:
    """The result of `write_shard`.

    Attributes:
        images: number of records written.
        size: length of the file, bytes.
        bad: names of the images that cannot be used, each with the reason.
    """

    images: int
    size: int
    bad: dict[str, str]


def _rgb(image: Image.Image) -> Image.Image:
    """The image upright, on a white background where it is transparent, in 8-bit RGB."""
    if "exif" in image.info:
        image = ImageOps.exif_transpose(image)
    if image.mode in ("1", "L", "P", "CMYK", "YCbCr", "RGB") and "transparency" not in image.info:
        return image.convert("RGB")
    if image.mode in ("LA", "PA", "RGBA", "L", "P", "RGB"):
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    raise UserError(f"has pixels of mode {image.mode}, which are not 8 bits per channel")


def square_image(file: bytes, settings: Data) -> Image.Image:
    """Decode, crop and resize one JPEG or PNG file.

    Grey, palette and CMYK images are converted to RGB, transparent images get a white background,
    and an EXIF rotation is applied.

    Returns:
        An RGB image of image_size x image_size pixels.

    Raises:
        UserError: the file is not an image or is damaged, or the settings do not allow its size.
    """
    try:
        with Image.open(io.BytesIO(file), formats=("JPEG", "PNG")) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise UserError(f"is {image.width}x{image.height} pixels, which is too large")
            whole = _rgb(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UserError("has too many pixels") from None
    except UnidentifiedImageError:
        raise UserError("is empty" if not file else "is not a JPEG or PNG image") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"is cut short or damaged ({error})") from None
    width, height = whole.size
    side = settings.image_size
    if settings.crop == "none":
        if width < side or height < side:
            raise UserError(f"is {width}x{height} pixels, smaller than data.image_size {side}")
    else:
        if whole.size != ALIGNED_SIZE:
            raise UserError(
                f"is {width}x{height} pixels; data.crop {settings.crop} needs CelebA's aligned "
                f"images of 178x218 pixels, and data.crop none takes other sizes"
            )
        crop = int(settings.crop)
        left, top = (width - crop) // 2, (height - crop) // 2
        whole = whole.crop((left, top, left + crop, top + crop))
    return whole.resize((side, side), _FILTERS[settings.resize])


def _encoded(image: Image.Image, record_format: str) -> bytes:
    if record_format == "raw":
        return image.tobytes()
    file = io.BytesIO()
    # For PNG, Pillow ignores the quality.
    image.save(file, record_format.upper(), quality=_JPEG_QUALITY)
    return file.getvalue()


def write_shard(task: ShardTask) -> ShardResult:
    """Write one shard. Its file appears when it is complete.

    Raises:
        UserError: the archive cannot be opened.
        OSError: the shard cannot be written.
    """
    bad: dict[str, str] = {}
    target = Path(task.target)
    # Two workers may write the same shard, if one of them was wrongly taken for dead.
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    with ImageReader(Path(task.settings.source)) as reader, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with open(temporary, "xb") as shard:
                for row in task.images.tolist():
                    name = row[0]
                    try:
                        image = square_image(reader.read(row), task.settings)
                    except UserError as error:
                        bad[os.fsdecode(name)] = str(error)
                        continue
                    encoded = _encoded(image, task.settings.record_format)
                    shard.write(frame_record(encode_example({"image": encoded, "name": name})))
                size = shard.tell()
        except OSError as error:
            raise OSError(error.errno, error.strerror, task.target) from None
    os.replace(temporary, target)
    return ShardResult(len(task.images) - len(bad), size, bad)


def _listing(bad: Mapping[str, str]) -> str:
    lines = [f"  {name}: {reason}" for name, reason in sorted(bad.items())[:_LISTED]]
    if len(bad) > _LISTED:
        lines.append(f"  ... and {len(bad) - _LISTED} more")
    return "\n".join(lines)


def prepare(
    settings: Data,
    target: Path,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    executors: Callable[[], contextlib.AbstractContextManager[Executor]] = default_executor,
) -> dict[str, Any]:
    """Write the shards of all splits and their manifest into the folder `target`.

    Args:
        settings: the section `data` of the parameters; `source` is a folder in CelebA's layout.
        target: replaced when everything is written, and untouched until then.
        progress: called with (images done, images in all) after each shard.
        executors: opens an executor for the tasks; see `facevae.data.executors`.

    Returns:
        The manifest; see `facevae.shards.records`.

    Raises:
        UserError: the source or its attribute file cannot be used, another run is writing
            `target`, or the workers keep dying.
        OSError: `target` cannot be written.
    """
    source, target = Path(settings.source).resolve(), Path(target).resolve()
    settings = settings.model_copy(update={"source": str(source)})
    plan = _plan(source, settings.limit)
    bad = dict(plan.bad)
    total = sum(map(len, plan.images.values()))
    with exclusive_writer(target), atomic_write(target) as folder:
        folder.mkdir()
        tasks = {}
        for split, rows in plan.images.items():
            starts = range(0, len(rows), settings.images_per_shard)
            for number, start in enumerate(starts):
                file = f"{split}-{number:05d}-of-{len(starts):05d}.tfrecord"
                part = rows[start : start + settings.images_per_shard]
                tasks[file] = ShardTask(settings, str(folder / file), part)
        results: dict[str, ShardResult] = {}
        done = 0
        with contextlib.closing(run_tasks(write_shard, tasks.values(), executors)) as running:
            for task, result in running:
                results[Path(task.target).name] = result
                bad |= result.bad
                done += len(task.images)
                progress(done, total)
        _judge(store_path(source), bad, total + len(plan.bad), settings)
        splits: dict[str, Any] = {
            split: {"images": 0, "shards": [], "attributes": None} for split in SPLITS
        }
        for file in tasks:
            split, result = splits[file.partition("-")[0]], results[file]
            split["images"] += result.images
            entry = {"file": file, "images": result.images, "bytes": result.size}
            split["shards"].append({**entry, "ends": shard_ends(folder / file)})
        for name, split in splits.items():
            if not split["images"]:
                raise UserError(f"{source / PARTITION}: the {name} split has no images")
        left_out = np.sort(np.array([os.fsencode(name) for name in bad], "S"))
        for name, packed in plan.labels.items():
            kept = packed[~_among(plan.images[name]["name"], left_out)]
            labels = np.unpackbits(kept, axis=1, count=len(plan.attributes)).astype(bool)
            path = folder / f"{name}-attributes.npy"
            np.save(path, labels)
            entry = {"file": path.name, "bytes": path.stat().st_size}
            splits[name]["attributes"] = {**entry, "crc32c": crc32c(path.read_bytes())}
        manifest = {
            "settings": settings.model_dump(include=_OF_RECORDS),
            "attributes": list(plan.attributes),
            "splits": splits,
            "skipped": {"beyond_limit": plan.beyond_limit, "bad": dict(sorted(bad.items()))},
        }
        write_manifest(folder, manifest)
        # Workers that died leave incomplete files.
        for unfinished in folder.glob(".*"):
            unfinished.unlink()
    return manifest


@dataclasses.dataclass(frozen=True)
class _Plan:
    """The images to prepare, chosen before any image is read.

    Attributes:
        images: rows of `facevae.data.celeba.list_images` per split.
        bad: names for which the archive and the partition file do not match, with the reason.
        beyond_limit: number of images that the limit of a split leaves out.
        attributes: the attributes' names; empty if the source has no attribute file.
        labels: rows of `facevae.data.celeba.Attributes.packed` for `images`, per split; empty if
            the source has no attribute file.
    """

    images: dict[str, np.ndarray]
    bad: dict[str, str]
    beyond_limit: dict[str, int]
    attributes: tuple[str, ...]
    labels: dict[str, np.ndarray]


def _plan(source: Path, limit: Limit) -> _Plan:
    check_source(source)
    images = list_images(source)
    names = images["name"]
    listed = read_partition(source / PARTITION)
    everything = np.sort(np.concatenate(list(listed.values())))
    twice = names[1:][names[1:] == names[:-1]]
    bad = {
        os.fsdecode(name): reason
        for which, reason in (
            (everything[~_among(everything, names)], f"is in {PARTITION}, but there is no image"),
            (names[~_among(names, everything)], f"is not in {PARTITION}, so it is in no split"),
            (twice, "appears in the archive more than once"),
        )
        for name in which.tolist()
    }
    chosen, beyond = {}, {}
    for split, members in listed.items():
        within = members[: getattr(limit, split)]
        beyond[split] = len(members) - len(within)
        chosen[split] = images[_among(names, within) & ~_among(names, twice)]
    names_of, labels = _labels(source / ATTRIBUTES, chosen)
    return _Plan(chosen, bad, beyond, names_of, labels)


def _labels(
    path: Path, images: Mapping[str, np.ndarray]
) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """The attributes' names and the packed labels per split; both empty without the file."""
    if not path.is_file():
        return (), {}
    attributes = read_attributes(path)
    try:
        labels = {split: attributes.of(rows["name"]) for split, rows in images.items()}
    except KeyError as error:
        raise UserError(
            f"{path}: has no line for {os.fsdecode(error.args[0])}; fetch the file again, or "
            f"remove it from the folder to train without labels"
        ) from None
    return attributes.names, labels


def _among(names: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Whether each name is among the sorted `others`: `np.isin` in a tenth of its memory."""
    if not len(others):
        return np.zeros(len(names), bool)
    places = np.searchsorted(others, names)
    return others[np.minimum(places, len(others) - 1)] == names


def _judge(store: Path, bad: Mapping[str, str], checked: int, settings: Data) -> None:
    skip, share = settings.on_bad_image == "skip", settings.max_bad_share
    if not bad or (skip and len(bad) <= share * checked):
        return
    wrong = f"{store}: {len(bad)} of {checked} images cannot be used"
    if skip:
        raise UserError(f"{wrong}, more than data.max_bad_share {share}:\n{_listing(bad)}")
    raise UserError(
        f"{wrong}:\n{_listing(bad)}\n"
        f"Repair the source, or omit these images with data.on_bad_image: skip"
    )
