"""``python scripts/campaign`` and ``python -m scripts.campaign``."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
if not __package__:  # run as a folder
    sys.path[0] = str(ROOT)

from scripts.campaign.processes import ENVIRONMENT  # noqa: E402

if __name__ == "__main__":
    # Before PyTorch is imported: with more than one thread a process cannot be forked.
    os.environ.update(ENVIRONMENT)
    from scripts.campaign.command import main

    sys.exit(main())
