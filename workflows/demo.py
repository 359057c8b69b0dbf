"""The main job: one picture by stock ComfyUI, by two workers exactly, and by two workers that compress.

    python3 workflows/demo.py [--out DIR]

Does all the set-up itself (see setup_environment.py), then leaves serial.png, parallel.png, exact.png, plot.png,
report.json and comfyui.log in DIR.
"""

import argparse
import importlib
import os
import signal
import sys
import types
from pathlib import Path

from python_check import check_python

ROOT = Path(os.path.abspath(__file__)).parent.parent


def main() -> None:
    """Sets up, starts again inside the environment, and runs the job there."""
    check_python()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo-output"), metavar="DIR", help="default: %(default)s")
    arguments = parser.parse_args()
    from setup_environment import SetupError, enter, prepare

    try:
        environment = prepare()
    except SetupError as error:
        sys.exit(str(error))
    enter(environment, __file__, sys.argv[1:])
    pack = types.ModuleType("compact_parallel")
    pack.__path__ = [str(ROOT)]
    sys.modules[pack.__name__] = pack
    job = importlib.import_module("compact_parallel.workflows.demo_job")
    sys.exit(job.main(environment.comfyui, ROOT, arguments.out.absolute()))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("Interrupted; run it again to go on.")
