"""The noise levels at which the denoiser is asked about photos, and how their curves are called."""

NOISE_LEVELS = (0.25, 0.35, 0.55, 0.75)
"""Shares of the training timesteps. On the pocket a fit lowers the loss most between 0.2 and 0.5. Random
changes raise it most above 0.65, but above 0.85 steep fits raise it too. Levels of little noise tell fits and
random changes apart least."""


def level_tag(kind: str, level: float) -> str:
    """The tag of a curve of one noise level.

    >>> level_tag("trained", 0.25)
    'loss_trained_25'
    """
    return f"loss_{kind}_{round(100 * level)}"
