"""Models on disk: `.keras` files whose bytes depend on the model alone."""

import json
import zipfile
from pathlib import Path

import keras
from pydantic import ValidationError

from facevae.common.errors import UserError
from facevae.common.files import atomic_write, check_zip
from facevae.model.vae import VAE

# The earliest date that a zip archive can hold.
_EPOCH = (1980, 1, 1, 0, 0, 0)


def save_model(model: keras.Model, path: Path) -> None:
    """Write a `.keras` file without the dates that Keras puts into it.

    The same model gives the same bytes. A pipeline that caches by content then sees no change.
    """
    with atomic_write(path) as temporary:
        dated = temporary.with_name("dated.keras")
        model.save(dated)
        with zipfile.ZipFile(dated) as source, zipfile.ZipFile(temporary, "w") as target:
            for name in sorted(source.namelist()):
                content = source.read(name)
                if name == "metadata.json":
                    metadata = json.loads(content)
                    del metadata["date_saved"]
                    content = json.dumps(metadata).encode()
                target.writestr(zipfile.ZipInfo(name, _EPOCH), content)


def load_model(path: Path, for_images_of: int | None = None) -> VAE:
    """Read a VAE from a `.keras` file, in Keras' safe mode.

    Args:
        for_images_of: size of the images that it is wanted for, pixels; None: any.

    Raises:
        UserError: there is no such file, it is damaged, it was written by another version of this
            project, it holds another kind of model, or one for images of another size.
    """
    try:
        check_zip(Path(path), "train the model again: dvc repro")
    except FileNotFoundError:
        raise UserError(f"{path}: no such model; train it first: dvc repro") from None
    try:
        model = keras.saving.load_model(path)
    except (KeyError, TypeError, ValidationError):
        raise UserError(
            f"{path}: was written by another version of facevae; train the model again: dvc repro"
        ) from None
    except (ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: is not a .keras file ({reason}); train the model again") from None
    if not isinstance(model, VAE):
        raise UserError(f"{path}: holds a {type(model).__name__}, not a VAE of this project")
    if for_images_of not in (None, model.image_size):
        raise UserError(
            f"{path}: was trained on images of {model.image_size} pixels, and the shards hold "
            f"images of {for_images_of}; train the model again: dvc repro"
        )
    return model
