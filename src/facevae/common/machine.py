"""The machine that this process runs on: what two runs must share for equal bytes.

The same parameters give the same bytes where the processor, TensorFlow's kernels (oneDNN's or its
own), the number of threads and the versions of the libraries are the same; `describe_machine` says
them.
"""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

# Instruction sets that TensorFlow and oneDNN choose their kernels by, as Linux names them.
_INSTRUCTION_SETS = (
    "avx",
    "avx2",
    "fma",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_bf16",
)


def library_versions() -> dict[str, str]:
    """The versions of the libraries that results depend on, by name."""
    return {name: version(name) for name in ("tensorflow", "keras", "numpy")}


def _cpu_info(name: str) -> str:
    """The first entry of /proc/cpuinfo with a name, "" where there is none, or no such file."""
    file = Path("/proc/cpuinfo")
    if file.exists():
        for line in file.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    return ""


def processor_name() -> str:
    """The processor's name, as far as the system tells it."""
    return _cpu_info("model name") or platform.processor() or platform.machine()


def instruction_sets() -> list[str]:
    """Instruction sets of the processor that kernels are chosen by; empty where unknown."""
    flags = _cpu_info("flags").split()
    return [name for name in _INSTRUCTION_SETS if name in flags]


def onednn_is_on() -> bool:
    """Whether TensorFlow uses oneDNN's kernels on the processor. It imports TensorFlow."""
    # There is no public way to ask; TensorFlow's own tests ask so.
    from tensorflow.python.util import _pywrap_util_port

    return bool(_pywrap_util_port.IsMklEnabled())


def device_name() -> str:
    """The first GPU's name, or the processor's and how many cores there are."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        return f"GPU {details.get('device_name', 'of unknown name')}"
    return f"CPU {processor_name()}, {os.cpu_count()} cores"


def card_memory() -> int | None:
    """Memory of the smallest NVIDIA card, bytes, as its driver's `nvidia-smi` tells it."""
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    if chosen := os.environ.get("CUDA_VISIBLE_DEVICES"):
        command.append(f"--id={chosen}")
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return min(int(line) for line in told.stdout.splitlines()) * 2**20
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def describe_machine() -> dict[str, Any]:
    """What must be equal for equal bytes, for a record beside measurements.

    Returns:
        device; instruction_sets; onednn: "on" or "off"; threads, of TensorFlow within a kernel; and
        the versions of python, tensorflow, keras and numpy.
    """
    import tensorflow as tf

    threads = tf.config.threading.get_intra_op_parallelism_threads()
    return {
        "device": device_name(),
        "instruction_sets": " ".join(instruction_sets()),
        "onednn": "on" if onednn_is_on() else "off",
        "threads": threads or os.cpu_count(),  # 0: TensorFlow's choice, a thread per core
        "python": platform.python_version(),
        **library_versions(),
    }


def unused_nvidia_card(root: Path = Path("/")) -> str | None:
    """A sentence if the machine has an NVIDIA card that TensorFlow does not see; else None.

    Args:
        root: of the file system in which the driver shows its cards.
    """
    import tensorflow as tf

    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    cards = sorted((root / "proc" / "driver" / "nvidia" / "gpus").glob("*"))
    if hidden or not cards or tf.config.list_physical_devices("GPU"):
        return None
    return (
        "this machine has an NVIDIA card that TensorFlow does not see, so the processor is used; "
        "make gpu installs what TensorFlow needs for it"
    )
