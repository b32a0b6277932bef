"""Convert images to shards of small square ones, one independent task per shard."""

import contextlib
import dataclasses
import functools
import io
import os
import struct
import sys
import uuid
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from facevae.common.errors import UserError, printable
from facevae.common.files import atomic_write, exclusive_writer
from facevae.common.parameters import Data
from facevae.data.celeba import SPLITS, unpack_labels
from facevae.data.executors import default_executor, run_tasks
from facevae.data.folder import FORMATS
from facevae.data.images import ImageReader
from facevae.data.lists import among
from facevae.data.plan import make_plan
from facevae.shards.records import (
    crc32c,
    encode_example,
    frame_record,
    is_folder_of_shards,
    shard_ends,
    write_manifest,
)

ALIGNED_SIZE = (178, 218)  # width and height of CelebA's aligned images
# A larger image is refused before it is decoded: its pixels would take more than 100 MB.
_MAX_PIXELS = 2**25
_TOO_LARGE = f"more than the {_MAX_PIXELS // 10**6} million that are decoded; make it smaller first"
_JPEG_QUALITY = 95
_BUFFER = 2**20  # bytes that are written at once: twice as fast as record by record
_LISTED = 20
_REASON = 100  # characters of a decoder's message

# What the records depend on, and the manifest says, by layout.
_OF_RECORDS = {
    "celeba": {"crop", "resize", "image_size", "record_format"},
    "folder": {"layout", "split_seed", "resize", "image_size", "record_format"},
}
_FORMATS = {"celeba": ("JPEG", "PNG"), "folder": FORMATS}

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
        settings: of the images and records.
        store: absolute path of the archive or folder that has the images.
        target: the file to write.
        images: the images of the shard, rows of `facevae.data.images.list_images`.
    """

    settings: Data
    store: str
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


_ORIENTATION = 0x0112
_INTEGERS = {1: "B", 3: "H", 4: "L"}  # types of EXIF values
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _orientation(exif: bytes) -> int:
    """The orientation in a block of EXIF data; 1, which is upright, if there is none to be read.

    No other tag is looked at, because cameras and programs write odd ones: after such a tag, Pillow
    reads no further one. The format: TIFF 6.0, section 2, behind one or two prefixes.
    """
    block = exif.removeprefix(b"Exif\0\0").removeprefix(b"Exif\0\0")
    order = ">" if block.startswith(b"MM") else "<"
    try:
        (directory,) = struct.unpack_from(f"{order}L", block, 4)
        (entries,) = struct.unpack_from(f"{order}H", block, directory)
        for place in range(directory + 2, directory + 2 + 12 * entries, 12):
            tag, kind, count = struct.unpack_from(f"{order}HHL", block, place)
            if tag == _ORIENTATION and count == 1 and kind in _INTEGERS:
                return struct.unpack_from(order + _INTEGERS[kind], block, place + 8)[0]
    except struct.error:  # behind the block's end
        pass
    return 1


def _rgb(image: Image.Image) -> Image.Image:
    """The image upright, on a white background where it is transparent, in 8-bit RGB."""
    image.load()  # a PNG may have its EXIF data behind the pixels
    turn = _TURNS.get(_orientation(image.info.get("exif", b"")))
    if turn is not None:
        image = image.transpose(turn)
    if image.mode in ("1", "L", "P", "CMYK", "YCbCr", "RGB") and "transparency" not in image.info:
        return image.convert("RGB")
    if image.mode in ("LA", "PA", "RGBA", "1", "L", "P", "RGB"):
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    raise UserError(f"has pixels of mode {image.mode}, which are not 8 bits per channel")


def square_image(file: bytes, settings: Data) -> Image.Image:
    """Decode, crop and resize one image file, by `settings.layout`.

    Grey, palette and CMYK images are converted to RGB, transparent images get a white background,
    and an EXIF rotation is applied.

    Returns:
        An RGB image of image_size x image_size pixels.

    Raises:
        UserError: the file is not an image or is damaged, or the settings do not allow its size.
    """
    formats, side = _FORMATS[settings.layout], settings.image_size
    try:
        with warnings.catch_warnings():
            # Pillow warns of odd things in an image that it can read nevertheless, and of a size
            # that a JPEG need not be decoded at.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(file), formats=formats) as image:
                if settings.layout == "folder" and image.width * image.height > _MAX_PIXELS:
                    # A JPEG is decoded at a half, a quarter or an eighth of its size.
                    image.draft(None, (4 * side, 4 * side))
                if image.width * image.height > _MAX_PIXELS:
                    raise UserError(f"is {image.width}x{image.height} pixels, {_TOO_LARGE}")
                whole = _rgb(image)
    except (UserError, MemoryError):
        raise
    except Image.DecompressionBombError:  # twice what Pillow warns of
        raise UserError(f"has over 170 million pixels, {_TOO_LARGE}") from None
    except UnidentifiedImageError:
        kinds = f"{', '.join(formats[:-1])} or {formats[-1]}"
        raise UserError("is empty" if not file else f"is not a {kinds} image") from None
    except Exception as error:  # which one, depends on what is damaged
        reason = printable(str(error) or type(error).__name__)[:_REASON]
        raise UserError(f"is cut short or damaged ({reason})") from None
    width, height = whole.size
    if settings.layout == "folder" or settings.crop == "none":
        if width < side or height < side:
            raise UserError(f"is {width}x{height} pixels, smaller than data.image_size {side}")
        crop = min(width, height) if settings.layout == "folder" else None
    else:
        if whole.size != ALIGNED_SIZE:
            raise UserError(
                f"is {width}x{height} pixels; data.crop {settings.crop} needs CelebA's aligned "
                f"images of 178x218 pixels, and data.crop none takes other sizes"
            )
        crop = int(settings.crop)
    if crop is not None:
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
        UserError: the archive cannot be opened, or there is not enough memory to decode an image.
        OSError: the shard cannot be written.
    """
    bad: dict[str, str] = {}
    target = Path(task.target)
    # Two workers may write the same shard, if one of them was wrongly taken for dead.
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    with ImageReader(Path(task.store)) as reader:
        try:
            with open(temporary, "xb", buffering=_BUFFER) as shard:
                for row in task.images.tolist():
                    name = row[0]
                    try:
                        image = square_image(reader.read(row), task.settings)
                    except UserError as error:
                        bad[os.fsdecode(name)] = str(error)
                        continue
                    except MemoryError:
                        raise UserError(
                            f"{task.store}: there is not enough memory to decode "
                            f"{printable(os.fsdecode(name))}; end other programs and run this again"
                        ) from None
                    encoded = _encoded(image, task.settings.record_format)
                    shard.write(frame_record(encode_example({"image": encoded, "name": name})))
                size = shard.tell()
        except OSError as error:
            raise OSError(error.errno, error.strerror, task.target) from None
    os.replace(temporary, target)
    return ShardResult(len(task.images) - len(bad), size, bad)


def _listing(bad: Mapping[str, str]) -> str:
    lines = [f"  {printable(name)}: {reason}" for name, reason in sorted(bad.items())[:_LISTED]]
    if len(bad) > _LISTED:
        lines.append(f"  ... and {len(bad) - _LISTED} more")
    return "\n".join(lines)


def prepare(
    settings: Data,
    target: Path,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    executors: Callable[[], contextlib.AbstractContextManager[Executor]] | None = None,
) -> dict[str, Any]:
    """Write the shards of all splits and their manifest into the folder `target`.

    Args:
        settings: the section `data` of the parameters.
        target: replaced when everything is written, and untouched until then.
        progress: called with (images done, images in all) after each shard.
        executors: opens an executor for the tasks; None: the one that
            `facevae.data.executors.default_executor` chooses.

    Returns:
        The manifest; see `facevae.shards.records`.

    Raises:
        UserError: the source or its attribute file cannot be used, another run is writing
            `target`, or the workers keep dying.
        OSError: `target` cannot be written.
    """
    source, target = Path(settings.source).resolve(), Path(target).resolve()
    plan = make_plan(source, settings)
    store = plan.store
    bad = dict(plan.bad)
    if settings.on_bad_image == "fail":
        bad |= dict.fromkeys(plan.absent, f"is in {plan.listing.name}, but there is no image")
    elif plan.absent:
        absent = f"{len(plan.absent)} images that it lists are not there, and are left out"
        print(f"{printable(str(plan.listing))}: {absent}", file=sys.stderr)
    total = sum(map(len, plan.images.values()))
    checked = total + len(bad)
    _judge(store, bad, checked, settings)
    for split, rows in plan.images.items():
        if not len(rows):
            raise UserError(f"{plan.splits}: the {split} split has no images{plan.remedy}")
    with exclusive_writer(target), atomic_write(target, is_folder_of_shards) as folder:
        folder.mkdir()
        tasks = {}
        for split, rows in plan.images.items():
            starts = range(0, len(rows), settings.images_per_shard)
            for number, start in enumerate(starts):
                file = f"{split}-{number:05d}-of-{len(starts):05d}.tfrecord"
                part = rows[start : start + settings.images_per_shard]
                tasks[file] = ShardTask(settings, str(store), str(folder / file), part)
        executors = executors or functools.partial(default_executor, [store, folder])
        results: dict[str, ShardResult] = {}
        done = 0
        with contextlib.closing(run_tasks(write_shard, tasks.values(), executors)) as running:
            for task, result in running:
                results[Path(task.target).name] = result
                bad |= result.bad
                done += len(task.images)
                progress(done, total)
        _judge(store, bad, checked, settings)
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
                raise UserError(f"{plan.splits}: the {name} split has no images that can be used")
        left_out = np.sort(np.array([os.fsencode(name) for name in bad], "S"))
        for name, packed in plan.labels.items():
            kept = packed[~among(plan.images[name]["name"], left_out)]
            labels = unpack_labels(kept, len(plan.attributes))
            path = folder / f"{name}-attributes.npy"
            np.save(path, labels == 1 if labels.all() else labels)
            entry = {"file": path.name, "bytes": path.stat().st_size}
            splits[name]["attributes"] = {**entry, "crc32c": crc32c(path.read_bytes())}
        manifest = {
            "settings": settings.model_dump(include=_OF_RECORDS[settings.layout]),
            "attributes": list(plan.attributes),
            "splits": splits,
            "skipped": {"beyond_limit": plan.beyond_limit, "bad": dict(sorted(bad.items()))},
        }
        write_manifest(folder, manifest)
        # Workers that died leave incomplete files.
        for unfinished in folder.glob(".*"):
            unfinished.unlink()
    return manifest


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
