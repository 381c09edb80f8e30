"""Measures of pictures."""
