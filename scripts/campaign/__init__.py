"""Random ends of the commands, and what is left: kills, signals, two processes at once, torn reads."""
