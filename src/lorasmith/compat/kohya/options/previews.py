"""Options of previews, log, metadata, validation and config files."""

from lorasmith.compat.options import Option

ALWAYS = "events.jsonl, report.html and TensorBoard's files are always in the run's folder"
WANDB = "a run that is resumed goes on there; what cannot be sent is a note"
CONSOLE = "messages go to stderr; redirect it"

OPTIONS = (
    Option(
        "sample_prompts",
        "text",
        None,
        "better",
        "read before training, so that a mistake costs nothing; without dropouts; sides are those of training and the "
        "seed is 0 where a prompt has none, so that pictures can be compared; they are in `output_dir/sample` too",
        "preview.prompts",
    ),
    Option("sample_sampler", "text", "ddim", to="preview.sampler"),
    Option("sample_every_n_epochs", "int", None, to="preview.every_epochs"),
    Option("sample_every_n_steps", "int", None, to="preview.every_steps"),
    Option("sample_at_first", to="preview.at_start"),
    Option("logging_dir", "text", None, "pointless", ALWAYS),
    Option(
        "log_with",
        "text",
        None,
        "better",
        f"{ALWAYS}; wandb and all: {WANDB}",
        "hooks.wandb",
        ("tensorboard", "wandb", "all"),
    ),
    Option("log_prefix", "text", None, "pointless", ALWAYS),
    Option("log_tracker_name", "text", None, to="hooks.wandb.project", note="of wandb; unset: network_train"),
    Option("log_tracker_config", "text", None, to="hooks.wandb.options", note="its table `[wandb]`"),
    Option("wandb_run_name", "text", None, to="hooks.wandb.run_name"),
    Option("wandb_api_key", "text", None, "better", "written nowhere; without it WANDB_API_KEY or the login counts"),
    Option("log_config", "flag", None, "better", "without the folders of this machine", "hooks.wandb.send_config"),
    Option("console_log_level", "text", None, "pointless", CONSOLE),
    Option("console_log_file", "text", None, "pointless", CONSOLE),
    Option("console_log_simple", state="pointless", note=CONSOLE),
    Option("no_metadata", to="export.metadata"),
    Option("training_comment", "text", None, to="comment"),
    Option("metadata_title", "text", None, to="metadata.title"),
    Option("metadata_author", "text", None, to="metadata.author"),
    Option("metadata_description", "text", None, to="metadata.description"),
    Option("metadata_license", "text", None, to="metadata.license"),
    Option("metadata_tags", "text", None, to="metadata.tags"),
    Option("metadata_usage_hint", "text", None, to="metadata.usage_hint"),
    Option("metadata_thumbnail", "text", None, to="metadata.thumbnail"),
    Option("metadata_merged_from", "text", None, to="metadata.merged_from"),
    Option("metadata_trigger_phrase", "text", None, to="trigger"),
    Option("metadata_preprocessor", "text", None, to="metadata.preprocessor"),
    Option("metadata_is_negative_embedding", "text", None, to="metadata.is_negative_embedding"),
    Option(
        "validation_split",
        "float",
        0.0,
        "better",
        "what is held out is never trained on, copies of it neither",
        "data.validation.split",
    ),
    Option(
        "validation_seed", "int", None, "better", "without it too no image is in both parts", "data.validation.seed"
    ),
    Option("validate_every_n_steps", "int", None, to="validation.every_steps"),
    Option("validate_every_n_epochs", "int", None, to="validation.every_epochs"),
    Option(
        "max_validation_steps",
        "int",
        None,
        "pointless",
        "every held-out image is measured, at the same noise each time",
    ),
    Option("config_file", "text", None),
    Option("output_config", note="prints; `lorasmith convert-config` prints the config of ours"),
)
