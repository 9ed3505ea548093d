"""``python -m lightning_drift``."""

import sys

from lightning_drift.cli import main

sys.exit(main())
