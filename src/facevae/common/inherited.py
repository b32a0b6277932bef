"""What a process must not take over from a shell, a notebook or a configuration file."""

import os


def ignore_inherited_settings() -> None:
    """Give Keras and Protocol Buffers their defaults, in this process and those that it starts.

    Keras takes its backend, precision and image layout from variables and from ~/.keras/keras.json:
    the networks need TensorFlow, float32 and channels_last. It reads them when it is imported, so
    this is to be called before.
    """
    for name in list(os.environ):
        # For Protocol Buffers another implementation may be asked for, which is not installed.
        if name.startswith("KERAS_") or name == "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION":
            del os.environ[name]
    os.environ["KERAS_BACKEND"] = "tensorflow"
    # In a folder that cannot be, there is no keras.json to read and none to write.
    os.environ["KERAS_HOME"] = os.devnull
