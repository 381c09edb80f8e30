"""Flux.1 of Black Forest Labs: dev, schnell."""
