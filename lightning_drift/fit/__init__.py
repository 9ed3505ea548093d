"""The fine-tune: the method, its callbacks, its checkpoints and its run folder."""
