"""Options of the scripts of textual inversion: those of `train_network` except those of a LoRA, and their own."""

from lorasmith.compat.kohya.options import OPTIONS as NETWORK_OPTIONS
from lorasmith.compat.kohya.options import network
from lorasmith.compat.options import Option

ABSENT = {
    *(option.name for option in network.OPTIONS),
    *("base_weights", "base_weights_multiplier", "unet_lr", "text_encoder_lr", "fp8_base_unet"),
    *("validation_split", "validation_seed", "validate_every_n_steps", "validate_every_n_epochs"),
    *("max_validation_steps", "caption_dropout_rate", "caption_dropout_every_n_epochs", "caption_tag_dropout_rate"),
    *("weighted_captions", "training_comment", "no_metadata", "cpu_offload_checkpointing"),
    *("initial_epoch", "initial_step", "skip_until_initial_step", "save_model_as"),
}
"""Options of `train_network` that these scripts do not have, or have with another meaning."""
TEMPLATES = "our own prompt templates replace all captions"
OWN = (
    Option(
        "save_model_as",
        "text",
        "pt",
        to="hooks.words.container",
        choices=("safetensors", "ckpt", "pt"),
        note="a .pt contains only `emb_params` and loads with weights_only",
    ),
    Option("token_string", "text", to="concepts.words"),
    Option("init_word", "text", to="concepts.init"),
    Option("num_vectors_per_token", "int", 1, to="concepts.vectors"),
    Option("weights", "text", to="concepts.init", note="a file of an earlier training to continue from"),
    Option("use_object_template", to="data.subsets.transforms", note=TEMPLATES),
    Option("use_style_template", to="data.subsets.transforms", note=TEMPLATES),
)
OPTIONS = (*(option for option in NETWORK_OPTIONS if option.name not in ABSENT), *OWN)
"""Of `train_textual_inversion` and `train_textual_inversion_XTI`."""
