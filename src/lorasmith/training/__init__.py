"""Training: configuration, set-up, the training step, hooks, checkpoints and reports."""
