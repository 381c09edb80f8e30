"""Options of loss, noise and timesteps."""

from lorasmith.compat.options import Option

OPTIONS = (
    Option("noise_offset", "float", None, to="objective.noise"),
    Option("noise_offset_random_strength", to="objective.noise"),
    Option("adaptive_noise_scale", "float", None, to="objective.noise"),
    Option(
        "multires_noise_iterations",
        "int",
        None,
        "better",
        "the factor between levels is 3, not drawn in 2..4, so that shapes stay",
        "objective.noise",
    ),
    Option("multires_noise_discount", "float", 0.3, to="objective.noise"),
    Option("ip_noise_gamma", "float", None, to="objective.noise"),
    Option("ip_noise_gamma_random_strength", to="objective.noise"),
    Option("min_timestep", "int", None, to="objective.timesteps.min"),
    Option("max_timestep", "int", None, to="objective.timesteps.max"),
    Option("min_snr_gamma", "float", None, to="objective.weightings"),
    Option("debiased_estimation_loss", to="objective.weightings"),
    Option("scale_v_pred_loss_like_noise_pred", to="objective.weightings"),
    Option("v_pred_like_loss", "float", None, to="objective.weightings"),
    Option(
        "zero_terminal_snr",
        "flag",
        None,
        "better",
        "weights over the SNR use the changed schedule",
        "zero_terminal_snr",
    ),
    Option("loss_type", "text", "l2", to="objective.loss", choices=("l1", "l2", "huber", "smooth_l1")),
    Option("huber_schedule", "text", "snr", to="objective.loss.schedule", choices=("constant", "exponential", "snr")),
    Option("huber_c", "float", 0.1, to="objective.loss.c"),
    Option("huber_scale", "float", 1.0, to="objective.loss.scale"),
)
