"""What a run writes: events, checkpoints, LoRA files, its folder and its report."""
