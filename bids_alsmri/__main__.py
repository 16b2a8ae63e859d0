"""Runs the app as ``python -m bids_alsmri``."""

import sys

from bids_alsmri.cli import main

if __name__ == "__main__":
    sys.exit(main())
