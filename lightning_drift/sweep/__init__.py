"""Sweeps: prompts, seeds, guidance, steps, checkpoints and drift crossed, measured and ranked."""
