"""Run docs/explore.ipynb on the finished run of a folder: `make notebook`.

    python docs/run_notebook.py [FOLDER]

FOLDER is the project in which `dvc repro` has run (default: the current folder). The notebook with
its pictures becomes reports/explore.ipynb there; the one in docs stays without.
"""

import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from traitlets.config import Config

NOTEBOOK = Path(__file__).resolve().parent / "explore.ipynb"
START = 300  # seconds in which the kernel must start, also on a busy machine


def main(project: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    target = project / "reports" / NOTEBOOK.name
    with tempfile.TemporaryDirectory() as sockets:
        # Files, which nobody else on the machine can listen to, instead of ports.
        config = Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"}})
        place = {"metadata": {"path": str(project)}}
        client = NotebookClient(notebook, config=config, resources=place, startup_timeout=START)
        try:
            client.execute()
        except CellExecutionError as error:
            # The sentence of a UserError says what to do; of another error, the notebook has more.
            raise SystemExit(f"{NOTEBOOK.name}: {error.ename}: {error.evalue}") from None
        finally:
            target.parent.mkdir(exist_ok=True)
            nbformat.write(notebook, target)
    print(target)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
