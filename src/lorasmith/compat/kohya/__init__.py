"""sd-scripts: `train_network`, textual inversion, their TOML files and dataset configs."""

from lorasmith.compat.kohya.train_network import SdxlTrainNetwork, TrainNetwork
from lorasmith.compat.kohya.train_textual_inversion import (
    SdxlTrainTextualInversion,
    TrainTextualInversion,
    TrainTextualInversionXti,
)

__all__ = [
    "SdxlTrainNetwork",
    "SdxlTrainTextualInversion",
    "TrainNetwork",
    "TrainTextualInversion",
    "TrainTextualInversionXti",
]
