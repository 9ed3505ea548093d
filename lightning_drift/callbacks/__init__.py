"""Callbacks: they look on and write down; none of them changes a bit of the training."""
