"""The command line of the torture."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tools import torture as package
from tools.torture import faults
from tools.torture.session import torture
from tools.torture.workshop import KINDS


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="torture", description=package.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=200, help="number of interruptions")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--faults", nargs="*", default=list(faults.ALL), choices=list(faults.ALL))
    parser.add_argument(
        "--folder", type=Path, help="where to work; started again with the same folder, it goes on with the next case"
    )
    options = parser.parse_args()
    if options.folder is not None:
        tally = torture(options.folder, options.count, options.seed, options.kinds, options.faults)
    else:
        with tempfile.TemporaryDirectory() as folder:
            tally = torture(Path(folder), options.count, options.seed, options.kinds, options.faults)
    sys.exit(1 if tally.problems else 0)


if __name__ == "__main__":
    main()
