"""Imports matplotlib, also where MPLBACKEND names a backend that this environment lacks.

Notebooks set MPLBACKEND for all processes that they start, and matplotlib's import fails without
that backend. Charts are files and need none. A backend that is there is set, as matplotlib does.
"""

import contextlib
import os
import sys

if "matplotlib" not in sys.modules:
    _backend = os.environ.pop("MPLBACKEND", "")
    import matplotlib

    if _backend:
        os.environ["MPLBACKEND"] = _backend
        with contextlib.suppress(ValueError):
            matplotlib.rcParams["backend"] = _backend
