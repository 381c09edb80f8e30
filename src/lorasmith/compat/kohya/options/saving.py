"""Options of files, states and the hub."""

from lorasmith.compat.options import Option

RESUME = "name the run's folder in resume; it continues exactly where it ended"
UPLOAD = "upload the file when it is made: huggingface-cli upload REPO FILE"
WITH_REPO = "counts with huggingface_repo_id only"

OPTIONS = (
    Option("output_dir", "text", None, to="output"),
    Option("output_name", "text", None, to="name"),
    Option("save_model_as", "text", "safetensors", choices=("safetensors", "ckpt", "pt"), to="export"),
    Option("save_precision", "text", None, to="export.dtype", choices=("float", "fp16", "bf16")),
    Option("save_every_n_epochs", "int", None, to="export.every_epochs"),
    Option("save_every_n_steps", "int", None, to="export.every_steps"),
    Option("save_n_epoch_ratio", "int", None, to="export.every_epochs"),
    Option("save_last_n_epochs", "int", None, to="export.keep"),
    Option("save_last_n_epochs_state", "int", None, to="checkpoint.keep"),
    Option("save_last_n_steps", "int", None, to="export.keep"),
    Option("save_last_n_steps_state", "int", None, to="checkpoint.keep"),
    Option(
        "save_state", "flag", None, "better", "a checkpoint holds all of a run, and continues it exactly", "checkpoint"
    ),
    Option(
        "save_state_on_train_end", "flag", None, "better", "a run always ends with a checkpoint", "checkpoint.at_end"
    ),
    Option("resume", "text", None, "better", "steps, names and data go on where they were; takes a run of lorasmith"),
    Option("initial_epoch", "int", None, "refused", RESUME),
    Option("initial_step", "int", None, "refused", RESUME),
    Option("skip_until_initial_step", state="refused", note=RESUME),
    Option("huggingface_repo_id", "text", None, "refused", UPLOAD),
    Option("huggingface_repo_type", "text", None, "pointless", WITH_REPO),
    Option("huggingface_path_in_repo", "text", None, "pointless", WITH_REPO),
    Option("huggingface_token", "text", None, "pointless", WITH_REPO),
    Option("huggingface_repo_visibility", "text", None, "pointless", WITH_REPO),
    Option("save_state_to_huggingface", state="pointless", note=WITH_REPO),
    Option("resume_from_huggingface", state="refused", note="download the run, then name its folder in resume"),
    Option("async_upload", state="pointless", note=WITH_REPO),
)
