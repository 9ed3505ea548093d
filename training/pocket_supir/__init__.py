"""The training of the pocket's SUPIR."""
