"""Options of previews, logs, metadata, validation and config files."""

from lorasmith.compat.options import Option

ALWAYS_LOGGED = "events.jsonl, report.html and TensorBoard's files are always in the run's folder"
CONSOLE = "messages go to stderr, which can be redirected"

OPTIONS = (
    # Previews
    Option(
        "sample_prompts",
        "text",
        to="preview.prompts",
        state="improved",
        note="read before training, so that mistakes are found at once; drawn without dropout; where a prompt does not "
        "give them, width and height are those of training and the seed is 0, so that images can be compared; the "
        "images are also in `output_dir/sample`",
    ),
    Option("sample_sampler", "text", "ddim", to="preview.sampler"),
    Option("sample_every_n_epochs", "int", to="preview.every_epochs"),
    Option("sample_every_n_steps", "int", to="preview.every_steps"),
    Option("sample_at_first", to="preview.at_start"),
    # Logs
    Option("logging_dir", "text", state="no_effect", note=ALWAYS_LOGGED),
    Option(
        "log_with",
        "text",
        to="hooks.wandb",
        choices=("tensorboard", "wandb", "all"),
        state="improved",
        note=f"{ALWAYS_LOGGED}; wandb and all: a resumed run continues in Weights & Biases; data that cannot be sent "
        "gives a note and does not stop the run",
    ),
    Option("log_prefix", "text", state="no_effect", note=ALWAYS_LOGGED),
    Option("log_tracker_name", "text", to="hooks.wandb.project", note="of wandb; default: network_train"),
    Option("log_tracker_config", "text", to="hooks.wandb.options", note="its table `[wandb]`"),
    Option("wandb_run_name", "text", to="hooks.wandb.run_name"),
    Option(
        "wandb_api_key",
        "text",
        state="improved",
        note="not written to any file; without it, WANDB_API_KEY or the login of this machine is used",
    ),
    Option("log_config", to="hooks.wandb.send_config", state="improved", note="sent without the paths of this machine"),
    Option("console_log_level", "text", state="no_effect", note=CONSOLE),
    Option("console_log_file", "text", state="no_effect", note=CONSOLE),
    Option("console_log_simple", state="no_effect", note=CONSOLE),
    # Metadata
    Option("no_metadata", to="export.metadata"),
    Option("training_comment", "text", to="comment"),
    Option("metadata_title", "text", to="metadata.title"),
    Option("metadata_author", "text", to="metadata.author"),
    Option("metadata_description", "text", to="metadata.description"),
    Option("metadata_license", "text", to="metadata.license"),
    Option("metadata_tags", "text", to="metadata.tags"),
    Option("metadata_usage_hint", "text", to="metadata.usage_hint"),
    Option("metadata_thumbnail", "text", to="metadata.thumbnail"),
    Option("metadata_merged_from", "text", to="metadata.merged_from"),
    Option("metadata_trigger_phrase", "text", to="trigger"),
    Option("metadata_preprocessor", "text", to="metadata.preprocessor"),
    Option("metadata_is_negative_embedding", "text", to="metadata.is_negative_embedding"),
    # Validation
    Option(
        "validation_split",
        "float",
        0.0,
        to="data.validation.split",
        state="improved",
        note="validation images, and copies of them, are never trained on",
    ),
    Option(
        "validation_seed",
        "int",
        to="data.validation.seed",
        state="improved",
        note="even without it, no image is in both the training and the validation set",
    ),
    Option("validate_every_n_steps", "int", to="validation.every_steps"),
    Option("validate_every_n_epochs", "int", to="validation.every_epochs"),
    Option(
        "max_validation_steps",
        "int",
        state="no_effect",
        note="every validation image is used, with the same noise each time",
    ),
    # Config files
    Option("config_file", "text"),
    Option("output_config", note="writes the file; `lorasmith convert-config` prints it as a config of lorasmith"),
)
