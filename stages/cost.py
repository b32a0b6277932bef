"""Measure what a training step of one variant costs on this machine: time and memory."""

import sys

from _stage import arguments, run
from facevae.common.files import write_json
from facevae.common.runtime import load_tensorflow


def main() -> None:
    options, parameters = arguments(__doc__, variant=True, metrics="JSON to write")
    load_tensorflow()
    from facevae.measurement.cost import measure_training
    from facevae.memory.host import check_training

    if warning := check_training(parameters, data=0):
        print(warning, file=sys.stderr)
    write_json(options.metrics, measure_training(parameters))


if __name__ == "__main__":
    run(main)
