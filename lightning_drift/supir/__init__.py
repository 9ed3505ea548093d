"""SUPIR v0 (Yu et al. 2024, arXiv:2401.13627) on an SDXL base: networks, sampling, one picture at a time."""
