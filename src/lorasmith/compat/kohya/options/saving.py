"""Options of files, states and the hub."""

from lorasmith.compat.options import Option

PATIENT = "uploads each file when it is made; one that fails is a note and ends nothing"
SECRET = "written nowhere; without it HF_TOKEN or the login of this machine counts"
BEGINS = "data, noise, learning rate and numbers begin there, with or without skip_until_initial_step"

OPTIONS = (
    Option("output_dir", "text", None, to="output"),
    Option("output_name", "text", None, to="name"),
    Option(
        "save_model_as",
        "text",
        "safetensors",
        note="ckpt and pt open with weights_only; the run's folder then has the LoRA as safetensors too",
        choices=("safetensors", "ckpt", "pt"),
        to="export.container",
    ),
    Option("save_precision", "text", None, to="export.dtype", choices=("float", "fp16", "bf16")),
    Option("save_every_n_epochs", "int", None, to="export.every_epochs"),
    Option("save_every_n_steps", "int", None, to="export.every_steps"),
    Option("save_n_epoch_ratio", "int", None, to="export.every_epochs"),
    Option("save_last_n_epochs", "int", None, to="export.keep_epochs"),
    Option("save_last_n_epochs_state", "int", None, to="hooks.state.keep_epochs"),
    Option("save_last_n_steps", "int", None, to="export.keep"),
    Option("save_last_n_steps_state", "int", None, to="hooks.state.keep"),
    Option(
        "save_state", "flag", None, "better", "a state holds all of a run; resume continues it exactly", "hooks.state"
    ),
    Option("save_state_on_train_end", "flag", None, "better", "a state holds all of a run", "hooks.state"),
    Option(
        "resume",
        "text",
        None,
        "better",
        "a state, also an older one, or a run's folder: steps, names, data and noise go on where they were; a state "
        "that sd-scripts wrote is an error that says what to do",
    ),
    Option("initial_epoch", "int", None, "better", BEGINS, "first_epoch"),
    Option("initial_step", "int", None, "better", BEGINS, "first_step"),
    Option("skip_until_initial_step", "flag", None, "better", "always so, and nothing is loaded to be thrown away"),
    Option("huggingface_repo_id", "text", None, "better", PATIENT, "hooks.upload.repo"),
    Option("huggingface_repo_type", "text", None, to="hooks.upload.repo_type", choices=("model", "dataset", "space")),
    Option("huggingface_path_in_repo", "text", None, to="hooks.upload.path"),
    Option("huggingface_token", "text", None, "better", SECRET, "hooks.upload.token_from"),
    Option("huggingface_repo_visibility", "text", None, to="hooks.upload.public"),
    Option("save_state_to_huggingface", to="hooks.upload.states"),
    Option("resume_from_huggingface", note="resume is `user/repo/path:revision:type`"),
    Option("async_upload", "flag", None, "better", "the run ends when all files are there", "hooks.upload.background"),
)
