"""Options of the optimizer and the schedule of its learning rate."""

from lorasmith.compat.options import Option

DAMPED = "parts with a rate of 0 take no share in the norm of gradients"

OPTIONS = (
    Option("optimizer_type", "text", "", to="optimizer.kind"),
    Option("optimizer_args", "texts", None, to="optimizer"),
    Option("use_8bit_adam", to="optimizer.kind", note="old name of optimizer_type = AdamW8bit"),
    Option("use_lion_optimizer", to="optimizer.kind", note="old name of optimizer_type = Lion"),
    Option("learning_rate", "float", 2e-6, to="optimizer.lr"),
    Option("unet_lr", "float", None, "better", DAMPED, "optimizer.unet_lr"),
    Option("text_encoder_lr", "floats", None, "better", DAMPED, "optimizer.text_lr"),
    Option("max_grad_norm", "float", 1.0, to="optimizer.clip"),
    Option("fused_backward_pass", state="pointless", note="the original does nothing with it in this script"),
    Option("lr_scheduler", "text", "constant", to="lr_schedule.kind"),
    Option("lr_warmup_steps", "steps", 0, "better", "the first step already moves the weights", "lr_schedule.warmup"),
    Option("lr_decay_steps", "steps", 0, to="lr_schedule.decay", note="of warmup_stable_decay"),
    Option("lr_scheduler_num_cycles", "float", 1, to="lr_schedule.cycles"),
    Option("lr_scheduler_power", "float", 1, to="lr_schedule.power"),
    Option("lr_scheduler_timescale", "int", None, to="lr_schedule.timescale", note="of inverse_sqrt"),
    Option("lr_scheduler_min_lr_ratio", "float", None, to="lr_schedule.end"),
    Option("lr_scheduler_type", "text", "", to="lr_schedule.kind", note="a class of torch or a dotted path"),
    Option("lr_scheduler_args", "texts", None, to="lr_schedule"),
)
