"""Fusion of concepts: several LoRAs as one that does for each concept what its own LoRA did (Mix-of-Show, arXiv
2305.18292)."""

from lorasmith.fusion.concepts import ConceptUse, read_list
from lorasmith.fusion.files import FuseReport, fuse_files
from lorasmith.fusion.fuse import FuseSettings, FusionResult, fuse

__all__ = ["ConceptUse", "FuseReport", "FuseSettings", "FusionResult", "fuse", "fuse_files", "read_list"]
