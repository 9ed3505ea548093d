"""SUPIR's networks, their names, their weights, and where those lie."""
