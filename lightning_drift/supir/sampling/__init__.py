"""SUPIR's samplers, noise and windows."""
