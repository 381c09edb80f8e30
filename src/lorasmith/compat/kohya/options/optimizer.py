"""Options of the optimizer and the learning rate schedule."""

from lorasmith.compat.options import Option

GRADIENT_NORM = "components with a learning rate of 0 do not count in the gradient norm"

OPTIONS = (
    # Optimizer
    Option("optimizer_type", "text", "", to="optimizer.kind"),
    Option("optimizer_args", "texts", to="optimizer"),
    Option("use_8bit_adam", to="optimizer.kind", note="old name of optimizer_type = AdamW8bit"),
    Option("use_lion_optimizer", to="optimizer.kind", note="old name of optimizer_type = Lion"),
    Option("learning_rate", "float", 2e-6, to="optimizer.lr"),
    Option("unet_lr", "float", to="optimizer.unet_lr", state="improved", note=GRADIENT_NORM),
    Option("text_encoder_lr", "floats", to="optimizer.text_lr", state="improved", note=GRADIENT_NORM),
    Option("max_grad_norm", "float", 1.0, to="optimizer.clip"),
    Option("fused_backward_pass", state="no_effect", note="it has no effect in this script of the original either"),
    # Learning rate schedule
    Option("lr_scheduler", "text", "constant", to="lr_schedule.kind"),
    Option(
        "lr_warmup_steps",
        "steps",
        0,
        to="lr_schedule.warmup",
        state="improved",
        note="the first step has a rate of 1/warmup of the full one; in the original it has 0, so it changes nothing",
    ),
    Option("lr_decay_steps", "steps", 0, to="lr_schedule.decay", note="of warmup_stable_decay"),
    Option("lr_scheduler_num_cycles", "float", 1, to="lr_schedule.cycles"),
    Option("lr_scheduler_power", "float", 1, to="lr_schedule.power"),
    Option("lr_scheduler_timescale", "int", to="lr_schedule.timescale", note="of inverse_sqrt"),
    Option("lr_scheduler_min_lr_ratio", "float", to="lr_schedule.end"),
    Option("lr_scheduler_type", "text", "", to="lr_schedule.kind", note="a class of torch or a dotted path"),
    Option("lr_scheduler_args", "texts", to="lr_schedule"),
)
