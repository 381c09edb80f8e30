"""Stable Diffusion 3 and 3.5 (arXiv 2403.03206)."""
