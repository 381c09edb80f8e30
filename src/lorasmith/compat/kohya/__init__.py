"""sd-scripts: `train_network`, its TOML files and dataset configs."""
