"""Options of `train_db`: those of `train_network` except those of a LoRA, and its own."""

from lorasmith.compat.kohya.options import OPTIONS as NETWORK_OPTIONS
from lorasmith.compat.kohya.options import network
from lorasmith.compat.options import Option

ABSENT = {
    *(option.name for option in network.OPTIONS),
    *("base_weights", "base_weights_multiplier", "unet_lr", "text_encoder_lr", "fp8_base_unet", "in_json"),
    *("validation_split", "validation_seed", "validate_every_n_steps", "validate_every_n_epochs"),
    *("max_validation_steps", "training_comment", "no_metadata", "cpu_offload_checkpointing"),
    *("initial_epoch", "initial_step", "skip_until_initial_step", "save_model_as"),
}
"""Options of `train_network` that this script does not have, or has with another meaning."""
OWN = (
    Option(
        "save_model_as",
        "text",
        to="export.model",
        choices=("ckpt", "safetensors", "diffusers", "diffusers_safetensors"),
        note="default: the same form as the base. A diffusers folder is written to `output_name.model` in the run's "
        "folder; ckpt is refused, because a pickle can contain code",
    ),
    Option("use_safetensors", state="no_effect", note="files are always safetensors"),
    Option("learning_rate_te", "float", to="optimizer.text_lr"),
    Option(
        "stop_text_encoder_training",
        "int",
        to="phases.text",
        note="-1: the text encoder is not trained; its token and position embeddings are never trained",
    ),
    Option(
        "no_token_padding",
        state="refused",
        note="remove it: every program that generates images pads prompts, so the model should be trained that way",
    ),
)
OPTIONS = (*(option for option in NETWORK_OPTIONS if option.name not in ABSENT), *OWN)
