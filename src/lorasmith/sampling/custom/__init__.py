"""Samplers that are defined by their step: the extension point, and how one is run as a scheduler."""
