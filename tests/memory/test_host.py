"""Out of memory: refused before it is tried where it can be known, else a sentence."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from helpers import make_vae, write_params

from facevae.common.errors import UserError
from facevae.common.parameters import Parameters
from facevae.latent.priors import normal_prior, save_prior
from facevae.memory.capacity import parse_size, step_memory
from facevae.memory.cli import report
from facevae.memory.host import (
    PROCESS,
    check_training,
    compare,
    is_shortage,
    of_one_device,
    shortage,
)
from facevae.memory.ledger import largest_batch, ledger
from facevae.model.saving import save_model

GIB = 2**30

_LARGE = [2**16] * 4  # filters, whose weights take 462 GiB


def _card_of(sentence: str) -> int:
    (named,) = re.findall(r"`make fits VRAM=(\w+) BATCH=4096`", sentence)
    return parse_size(named)


def test_out_of_memory_is_refused_beforehand(parameters: Parameters) -> None:
    large = parameters.with_changes({"train.batch_size": 4096})
    needed = ledger(large).peak + PROCESS + 2**20
    assert compare(large, 2**20, None) is None
    assert compare(large, 2**20, 2 * needed) is None
    assert "nearly all of" in (compare(large, 2**20, needed) or "")
    with pytest.raises(UserError, match=r"batch of 4096 .* more than the [0-9,]+ MiB of memory"):
        compare(large, 2**20, needed - 1)


@pytest.mark.parametrize("limit", [1 * GIB, 4 * GIB, 8 * GIB])
def test_out_of_memory_names_a_command_whose_answer_fits(
    parameters: Parameters, limit: int
) -> None:
    large = parameters.with_changes({"train.batch_size": 4096})
    with pytest.raises(UserError) as refused:
        compare(large, 2**20, limit)
    card = _card_of(str(refused.value))
    assert "\n" not in str(refused.value)
    if limit > GIB:  # else nothing fits, which the command says
        assert "Batch size 4096 does not fit" in report(parameters, card, 4096)
    batch_size = largest_batch(large, step_memory(card))
    assert compare(large.with_changes({"train.batch_size": batch_size or 1}), 0, 2 * limit) is None
    if batch_size:
        fitting = large.with_changes({"train.batch_size": batch_size})
        assert ledger(fitting).peak + PROCESS + 2**20 <= limit


def test_out_of_memory_is_judged_by_the_share_of_one_device(parameters: Parameters) -> None:
    settings = {"train.batch_size": 96, "train.accumulation_steps": 4}
    of_one = of_one_device(parameters.with_changes(settings), 32, devices=5)
    assert (of_one.data.image_size, of_one.train.batch_size) == (32, 20)


def test_out_of_memory_of_this_machine(parameters: Parameters) -> None:
    assert check_training(parameters.with_changes({"data.image_size": 16}), 0) is None
    with pytest.raises(UserError, match="make fits"):
        check_training(parameters.with_changes({"encoder.filters": _LARGE}), 0)


def test_out_of_memory_is_recognised() -> None:
    with pytest.raises(MemoryError) as refused:
        np.empty(2**56)
    assert is_shortage(refused.value)
    # As oneDNN says it, seen with `ulimit -v`; and other resources that are exhausted.
    of_onednn = "Operation received an exception:Status: 1, message: could not create a primitive"
    assert is_shortage(tf.errors.AbortedError(None, None, of_onednn))
    for other in ("Too many open files", "history.csv; No space left on device"):
        assert not is_shortage(tf.errors.ResourceExhaustedError(None, None, other))
    assert not is_shortage(ValueError("OOM"))
    assert not is_shortage(RuntimeError("there is no room for a file"))
    mapped = "/lib/libx.so: failed to map segment from shared object"
    assert is_shortage(ImportError(mapped))
    assert not is_shortage(ImportError(f"{mapped}: Operation not permitted"))
    wrapped = ValueError("the layer failed")
    wrapped.__cause__ = tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
    assert is_shortage(wrapped)


@pytest.mark.slow
def test_out_of_memory_in_training_keeps_the_last_model(
    project: Path, shards: Path, tmp_path: Path
) -> None:
    """TensorFlow's allocator has 4 MB here, and its refusal is its own."""
    shape = {"filters": [2048], "kernel_sizes": [3], "strides": [2], "latent_size": 1}
    encoder = {**shape, "inter_dense": 1}
    write_params(tmp_path, encoder=encoder, data={"image_size": 16}, train={"batch_size": 48})
    (tmp_path / "m.keras").write_bytes(b"the last good model")
    stage = [sys.executable, str(project / "stages" / "train.py"), "--shards", str(shards)]
    done = subprocess.run(
        [*stage, "--variant=inter_dense", "--history=h.csv", "--model=m.keras"],
        cwd=tmp_path, text=True, capture_output=True, check=False,
        env={**os.environ, "TF_MKL_ALLOC_MAX_BYTES": "4000000", "TF_CPP_MIN_LOG_LEVEL": "3"},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    *_, told = done.stderr.splitlines()
    assert re.fullmatch(r"out of memory: .*; `make fits VRAM=[0-9]+MiB BATCH=48` says .*", told)
    assert "Traceback" not in done.stderr
    assert (tmp_path / "m.keras").read_bytes() == b"the last good model"


@pytest.fixture(scope="module")
def too_large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with more weights than a process can address: TensorFlow refuses to build it."""
    folder = tmp_path_factory.mktemp("too_large")
    save_model(make_vae(image_size=16, filters=[4] * 4, latent_size=6), folder / "small.keras")
    model = folder / "large.keras"
    with zipfile.ZipFile(folder / "small.keras") as small, zipfile.ZipFile(model, "w") as large:
        for name in small.namelist():
            content = small.read(name)
            large.writestr(name, content.replace(b"[4, 4, 4, 4]", f"{_LARGE}".encode()))
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("generate", ["--prior=prior.npz", "--reports=reports"]),
        ("evaluate", ["--prior=prior.npz", "--attributes=attributes", "--metrics=metrics.json"]),
    ],
)
def test_out_of_memory_in_other_stages_is_a_sentence(
    stage, too_large: Path, shards: Path, tmp_path: Path, capfd: pytest.CaptureFixture,
    name: str, others: list[str],
) -> None:  # fmt: skip
    save_prior(normal_prior(6), tmp_path / "prior.npz")
    (tmp_path / "metrics.json").write_text("{}")
    arguments = [f"--model={too_large}", f"--shards={shards}", *others]
    assert stage(name, *arguments, train={"batch_size": 24}) == 2
    assert re.fullmatch(
        r"out of memory: .*; `make fits VRAM=[0-9]+MiB BATCH=24` says what fits\n",
        capfd.readouterr().err,
    )
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"params.yaml", "prior.npz", "metrics.json"}


def _run(project: Path, folder: Path, code: str, *, kilobytes: str = "unlimited"):
    """Run code as a stage, in which `cpp` calls a function of the C++ library."""
    write_params(folder)
    (folder / "stage.py").write_text(
        f"import ctypes, mmap, sys\nsys.path.insert(0, {str(project / 'stages')!r})\n"
        "from _stage import arguments, run\n"
        'cpp = lambda name: getattr(ctypes.CDLL("libstdc++.so.6"), name)()\n'
        f"def main():\n    arguments('A stage.')\n    {code}\nrun(main)\n"
    )
    command = ["sh", "-c", f"ulimit -v {kilobytes}; exec {sys.executable} stage.py"]
    return subprocess.run(command, cwd=folder, text=True, capture_output=True, check=False)


@pytest.mark.skipif(sys.platform != "linux", reason="the C++ library has another name")
@pytest.mark.parametrize(
    ("thrown", "status", "sentence"),
    [
        ("_ZSt17__throw_bad_allocv", 2, "out of memory: "),
        ("_ZSt16__throw_bad_castv", -6, "aborted, see above; perhaps out of memory: "),
        ("abort", -6, "aborted, see above; perhaps out of memory: "),
    ],
)
def test_out_of_memory_in_a_kernel_is_a_sentence(
    project: Path, tmp_path: Path, thrown: str, status: int, sentence: str
) -> None:
    """Where nothing catches an exception of C++, the process would end without a word."""
    done = _run(project, tmp_path, f"cpp({thrown!r})")
    assert done.returncode == status, done.stderr
    assert done.stderr.splitlines()[-1].startswith(sentence)
    assert done.stderr.count("what()") == (thrown == "_ZSt16__throw_bad_castv")


@pytest.mark.parametrize("driver", ["4096\n8192\n", "", None])
def test_out_of_memory_on_a_card_names_its_memory(
    parameters: Parameters, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: str | None
) -> None:
    """TensorFlow's view of two cards is made up, and so is what their driver's command prints."""
    if driver is not None:
        (tmp_path / "told").write_text(driver)
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\ncat {tmp_path}/told\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["one", "other"])
    details = {"device_name": "GTX"}
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda card: details)
    large = parameters.with_changes({"train.batch_size": 511})
    memory = "4096MiB" if driver else "..."
    assert shortage(large) == (
        f"out of memory on GPU GTX; `make fits VRAM={memory} BATCH=256` says what fits if no other "
        f"program uses the card"
    )
    assert check_training(large.with_changes({"encoder.filters": _LARGE}), 0) is None


@pytest.mark.skipif(sys.platform != "linux", reason="the C++ library has another name")
@pytest.mark.parametrize("end", ["cpp('abort')", "cpp('_ZSt16__throw_bad_castv')", "raise"])
def test_out_of_memory_where_nothing_is_left_is_a_sentence(
    project: Path, tmp_path: Path, end: str
) -> None:
    """As where TensorFlow aborts because it cannot start another thread."""
    code = f"""held = []
    try:
        while True:
            held.append(mmap.mmap(-1, 2**20))
    except OSError:
        {end}"""
    done = _run(project, tmp_path, code, kilobytes="600000")
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("out of memory: this process may use 586 MiB")


@pytest.mark.parametrize(
    ("name", "others", "written"),
    [
        ("train", ["--model=m.keras", "--history=h.csv"], {"m.keras", "h.csv", ".facevae"}),
        ("cost", ["--metrics=cost.json"], {"cost.json"}),
    ],
)
def test_out_of_memory_is_refused_before_a_step_is_tried(
    stage, shards: Path, tmp_path: Path, capfd: pytest.CaptureFixture,
    name: str, others: list[str], written: set[str],
) -> None:  # fmt: skip
    of_data = [f"--shards={shards}"] if name == "train" else []
    large = {"filters": _LARGE}
    assert stage(name, "--variant=direct", *others, *of_data, encoder=large) == 2
    told = capfd.readouterr().err
    assert re.fullmatch(r"training with a batch of 16 .*: more than .*`make fits VRAM=.*\n", told)
    assert not written & {path.name for path in tmp_path.iterdir()}
