"""What the progress bars of a fit are called; a corridor reads them in its log."""

FIT_BAR = "fit"
"""What the bar of the optimizer steps is called."""
GRID_BAR = "grid at step"
"""What a seed grid's bar is called; the step follows. A corridor reads both in the logs of its fits."""
