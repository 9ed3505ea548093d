"""The ways in which a fit can keep the weights that it trains."""

from typing import Literal

Memory = Literal["auto", "full", "split"]
"""``auto``, and the modes from the one that takes most memory and least time on."""
