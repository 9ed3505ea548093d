"""How the verdict's thresholds were set and checked: corridors, blind labels, random changes."""
