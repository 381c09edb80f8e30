"""sd-scripts: `train_network`, textual inversion, `train_db`, their TOML files and dataset configs."""

from lorasmith.compat.kohya.flow_train_network import FluxTrainNetwork, Sd3TrainNetwork
from lorasmith.compat.kohya.train_db import TrainDb
from lorasmith.compat.kohya.train_network import SdxlTrainNetwork, TrainNetwork
from lorasmith.compat.kohya.train_textual_inversion import (
    SdxlTrainTextualInversion,
    TrainTextualInversion,
    TrainTextualInversionXti,
)

__all__ = [
    "FluxTrainNetwork",
    "Sd3TrainNetwork",
    "SdxlTrainNetwork",
    "SdxlTrainTextualInversion",
    "TrainDb",
    "TrainNetwork",
    "TrainTextualInversion",
    "TrainTextualInversionXti",
]
