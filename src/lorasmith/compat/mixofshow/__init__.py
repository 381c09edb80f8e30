"""Mix-of-Show (ED-LoRA, arXiv 2305.18292): its YAML files run unchanged."""

from lorasmith.compat.mixofshow.edlora import TrainEdlora
from lorasmith.compat.mixofshow.fusion import GradientFusion
from lorasmith.compat.mixofshow.regions import RegionallyControlableSampling
from lorasmith.compat.mixofshow.testing import TestEdlora

__all__ = ["GradientFusion", "RegionallyControlableSampling", "TestEdlora", "TrainEdlora"]
