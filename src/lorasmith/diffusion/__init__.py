"""The mathematics of diffusion: schedules, targets, noise, timesteps, losses, weightings."""
