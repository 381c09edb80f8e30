"""Training: config, loop, objectives, hooks, checkpoints."""
