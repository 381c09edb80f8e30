"""sd-scripts: `train_network`, its TOML files and dataset configs."""

from lorasmith.compat.kohya.train_network import SdxlTrainNetwork, TrainNetwork

__all__ = ["SdxlTrainNetwork", "TrainNetwork"]
