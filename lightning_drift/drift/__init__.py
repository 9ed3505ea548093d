"""Where in the corridor a checkpoint is: its pictures against the base model's, by prompt and seed."""
