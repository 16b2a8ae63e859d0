"""The command line with the toy pipelines in place of the real ones."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from bids_alsmri import pipelines

if __name__ == "__main__":
    pipelines.__path__[:] = [str(Path(__file__).parent / "toy_pipelines")]
    from bids_alsmri import participant
    from bids_alsmri.cli import main

    participant.JOBS_AT_ONCE = int(os.environ.get("TOY_JOBS_AT_ONCE", participant.JOBS_AT_ONCE))
    sys.exit(main())
