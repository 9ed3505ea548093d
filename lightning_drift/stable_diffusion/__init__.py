"""Stable Diffusion 1.x: pipelines loaded from anywhere, sampled, interpolated."""
