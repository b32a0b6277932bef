"""Imports matplotlib where MPLBACKEND names a backend that this environment lacks.

Notebooks set MPLBACKEND for all processes that they start. Charts are files and need no backend.
"""

import importlib
import os

try:
    importlib.import_module("matplotlib")
except ValueError:
    os.environ.pop("MPLBACKEND", None)
    importlib.import_module("matplotlib")
