"""Builds the documentation site from docs/: `make site`."""
