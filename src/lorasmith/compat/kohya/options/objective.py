"""Options of loss, noise and timesteps."""

from lorasmith.compat.options import Option

OPTIONS = (
    # Noise
    Option("noise_offset", "float", to="objective.noise"),
    Option("noise_offset_random_strength", to="objective.noise"),
    Option("adaptive_noise_scale", "float", to="objective.noise"),
    Option(
        "multires_noise_iterations",
        "int",
        to="objective.noise",
        state="improved",
        note="the factor between levels is always 3, so that shapes are constant; the original draws it from 2 to 4",
    ),
    Option("multires_noise_discount", "float", 0.3, to="objective.noise"),
    Option("ip_noise_gamma", "float", to="objective.noise"),
    Option("ip_noise_gamma_random_strength", to="objective.noise"),
    # Timesteps
    Option("min_timestep", "int", to="objective.timesteps.min"),
    Option("max_timestep", "int", to="objective.timesteps.max"),
    # Weights over timesteps
    Option("min_snr_gamma", "float", to="objective.weightings"),
    Option("debiased_estimation_loss", to="objective.weightings"),
    Option("scale_v_pred_loss_like_noise_pred", to="objective.weightings"),
    Option("v_pred_like_loss", "float", to="objective.weightings"),
    Option(
        "zero_terminal_snr",
        to="zero_terminal_snr",
        state="improved",
        note="weightings that depend on the SNR use the changed schedule",
    ),
    # Loss
    Option("loss_type", "text", "l2", to="objective.loss", choices=("l1", "l2", "huber", "smooth_l1")),
    Option("huber_schedule", "text", "snr", to="objective.loss.schedule", choices=("constant", "exponential", "snr")),
    Option("huber_c", "float", 0.1, to="objective.loss.c"),
    Option("huber_scale", "float", 1.0, to="objective.loss.scale"),
)
