"""Options of `train_db`: those of `train_network` without a LoRA's, and its own."""

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
        None,
        to="export.model",
        note="unset: as the base is. A folder of diffusers is `output_name.model` in the run's folder; ckpt is "
        "refused: a pickle can carry code",
        choices=("ckpt", "safetensors", "diffusers", "diffusers_safetensors"),
    ),
    Option("use_safetensors", state="pointless", note="files are always safetensors"),
    Option("learning_rate_te", "float", None, to="optimizer.text_lr"),
    Option(
        "stop_text_encoder_training",
        "int",
        None,
        to="phases.text",
        note="-1: the text encoder is not trained; its token and position embeddings never are",
    ),
    Option(
        "no_token_padding",
        state="refused",
        note="leave it out: every program that draws fills texts up, so the model should be trained so",
    ),
)
OPTIONS = (*(option for option in NETWORK_OPTIONS if option.name not in ABSENT), *OWN)
