"""The training of the pocket: a small text-to-image pipeline."""
