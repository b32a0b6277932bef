"""What many tests make: settings, and the VAEs and trainings that they describe."""

import csv
import io
import runpy
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from facevae.common.parameters import Data, Limit, Parameters, Train, load_parameters
from facevae.common.runtime import enable_determinism
from facevae.common.signals import INTERRUPTS
from facevae.data.preparation import prepare

PROJECT = Path(__file__).resolve().parent.parent

# Where tests differ from params.yaml unless they say otherwise: the variant direct, with a loss
# that is easy to compute a second time.
_PLAIN = {"inter_dense": 0, "reconstruction": "mse", "learning_rate_schedule": "constant"}
_SECTIONS = ("encoder", "decoder", "loss", "train", "data")


# What the few images of these tests suffice for.
_REQUEST = {"rows": 2, "columns": 2, "prior": "normal", "attributes": []}


def write_params(folder: Path, **sections: dict[str, Any]) -> Path:
    """Write a params.yaml into a folder: the project's, with some keys of some sections changed.

    It asks for few pictures, unless the section generate says otherwise.
    """
    content = yaml.safe_load((PROJECT / "params.yaml").read_text(encoding="utf-8"))
    content["generate"] |= _REQUEST
    for section, changes in sections.items():
        content[section] |= changes
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def heed_interrupts() -> None:
    """For a process that is started: a shell's background jobs, of which the tests may be one,
    ignore Ctrl-C from birth, and those of nohup the end of a terminal. Who imports _stage and does
    not run it keeps Ctrl-C waiting, and so do its children."""
    for number in INTERRUPTS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, INTERRUPTS)


def run_stage(name: str, *arguments: object) -> int:
    """Run a stage in this process: its exit status, 0 if it has none."""
    script, stages = PROJECT / "stages" / f"{name}.py", str(PROJECT / "stages")
    handlers = {number: signal.getsignal(number) for number in INTERRUPTS}
    before = sys.argv
    sys.argv = [str(script), *map(str, arguments)]
    sys.path.insert(0, stages)
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as stopped:
        return int(stopped.code or 0)
    finally:
        sys.argv = before
        sys.path.remove(stages)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return 0


def settings(**changes: Any) -> Parameters:
    """The project's parameters with some changed, by the names of their keys.

    A name that several sections have is that of the first of encoder, decoder, loss, train and
    data; decoder_kernel_sizes are those of the Decoder.
    """
    parameters = load_parameters(PROJECT / "params.yaml")
    homes = {
        key: section
        for section in reversed(_SECTIONS)
        for key in type(getattr(parameters, section)).model_fields
    }
    named = {
        key.replace("decoder_", "decoder.")
        if key.startswith("decoder_")
        else f"{homes[key]}.{key}": value
        for key, value in {**_PLAIN, **changes}.items()
    }
    return parameters.with_changes(named)


def train_settings(**changes: Any) -> Train:
    """The section train of `settings`."""
    return settings(**changes).train


def data_settings(
    source: Path | str = "data/synthetic", *, limit: dict[str, int] | None = None, **changes: Any
) -> Data:
    """The section data for small shards of 16x16 images, with some keys changed."""
    content = settings().data.model_dump()
    small = {"resize": "box", "image_size": 16, "images_per_shard": 20}
    limits = {**content["limit"], **(limit or {})}
    return Data(**{**content, **small, **changes, "source": str(source), "limit": Limit(**limits)})


def write_shards(source: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    """Prepare with `data_settings`, in this process: workers would take longer to start."""
    settings = data_settings(source, **changes)
    return prepare(settings, folder, executors=lambda: ThreadPoolExecutor(1))


def make_vae(**changes: Any):
    """An untrained VAE of `settings`."""
    from facevae.model.vae import VAE

    made = settings(**changes)
    return VAE(
        made.encoder,
        made.decoder,
        made.loss,
        image_size=made.data.image_size,
        precision=made.train.precision,
        seed=made.train.seed,
    )


def small_vae(**changes: Any):
    """One for images of 16 pixels with all kinds of layers."""
    small = {
        "image_size": 16, "filters": [8, 16], "kernel_sizes": [3, 3], "strides": [2, 2],
        "latent_size": 4, "inter_dense": 8, "kl_weight": 0.1,
    }  # fmt: skip
    return make_vae(**{**small, **changes})


def train_vae(vae: Any, shards: Path, **changes: Any) -> list[dict[str, str]]:
    """Train for two epochs of batch 8; the rows of the history."""
    from facevae.shards.batches import Shards
    from facevae.training.loop import train

    small = {"epochs": 2, "batch_size": 8, "learning_rate": 0.003}
    history = io.StringIO()
    train(vae, Shards(shards), train_settings(**{**small, **changes}), history=history)
    return list(csv.DictReader(io.StringIO(history.getvalue())))


# What `training_batches` takes for the first epoch of `trained`.
FIRST_BATCHES: dict[str, Any] = {
    "batch_size": 8, "latent_size": 4, "horizontal_flips": False, "seed": 1, "epoch": 0,
}  # fmt: skip


def trained(
    shards: Path, vae: Any = None, dropout: float = 0.0, **changes: Any
) -> tuple[Any, list[dict[str, str]]]:
    """A VAE, `small_vae` if none is given, after `train_vae` from fixed seeds; and the history."""
    enable_determinism(1)
    vae = vae or small_vae(dropout=dropout, precision=changes.get("precision", "float32"))
    return vae, train_vae(vae, shards, **changes)


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody uses."""
    sockets = [socket.create_server(("", 0)) for _ in range(count)]
    ports = [listening.getsockname()[1] for listening in sockets]
    for listening in sockets:
        listening.close()
    return ports


def blurred(images: np.ndarray) -> np.ndarray:
    """A 3x3 mean, edges repeated."""
    padded = np.pad(images, [(0, 0), (1, 1), (1, 1), (0, 0)], mode="edge")
    height, width = images.shape[1:3]
    shifts = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return np.mean(shifts, axis=0).astype(np.float32)


def noisy(images: np.ndarray, strength: float) -> np.ndarray:
    noise = np.random.default_rng(9).standard_normal(images.shape)
    return np.clip(images + strength * noise, 0, 1).astype(np.float32)
