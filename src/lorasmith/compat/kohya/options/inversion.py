"""Options of the scripts of textual inversion: those of `train_network` without a LoRA's, and their own."""

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
OWN = (
    Option(
        "save_model_as",
        "text",
        "pt",
        "same",
        "a .pt holds `emb_params` alone and opens with weights_only",
        "hooks.words.container",
        choices=("safetensors", "ckpt", "pt"),
    ),
    Option("token_string", "text", None, to="concepts.words"),
    Option("init_word", "text", None, to="concepts.init"),
    Option("num_vectors_per_token", "int", 1, to="concepts.vectors"),
    Option("weights", "text", None, to="concepts.init", note="a file of an earlier training to go on from"),
    Option("use_object_template", to="data.subsets.transforms", note="sentences of our own in place of all captions"),
    Option("use_style_template", to="data.subsets.transforms", note="sentences of our own in place of all captions"),
)
OPTIONS = (*(option for option in NETWORK_OPTIONS if option.name not in ABSENT), *OWN)
"""Of `train_textual_inversion` and `train_textual_inversion_XTI`."""
