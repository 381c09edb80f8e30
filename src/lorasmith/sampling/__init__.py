"""Sampling: prompts, samplers, pictures and grids."""
