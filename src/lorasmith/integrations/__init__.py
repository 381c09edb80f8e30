"""Lorasmith's files in other programs."""
