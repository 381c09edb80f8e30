"""Options of files, states and the Hugging Face hub."""

from lorasmith.compat.options import Option

INITIAL_STEP = (
    "data, noise, learning rate and file numbers start at that point, with or without skip_until_initial_step"
)

OPTIONS = (
    # Files
    Option("output_dir", "text", to="output"),
    Option("output_name", "text", to="name"),
    Option(
        "save_model_as",
        "text",
        "safetensors",
        to="export.container",
        choices=("safetensors", "ckpt", "pt"),
        note="ckpt and pt load with weights_only; the run's folder then also contains the LoRA as safetensors",
    ),
    Option("save_precision", "text", to="export.dtype", choices=("float", "fp16", "bf16")),
    Option("save_every_n_epochs", "int", to="export.every_epochs"),
    Option("save_every_n_steps", "int", to="export.every_steps"),
    Option("save_n_epoch_ratio", "int", to="export.every_epochs"),
    Option("save_last_n_epochs", "int", to="export.keep_epochs"),
    Option("save_last_n_epochs_state", "int", to="hooks.state.keep_epochs"),
    Option("save_last_n_steps", "int", to="export.keep"),
    Option("save_last_n_steps_state", "int", to="hooks.state.keep"),
    # States
    Option(
        "save_state",
        to="hooks.state",
        state="improved",
        note="a state contains everything that a run needs; resume continues it exactly",
    ),
    Option(
        "save_state_on_train_end",
        to="hooks.state",
        state="improved",
        note="a state contains everything that a run needs",
    ),
    Option(
        "resume",
        "text",
        state="improved",
        note="a state (also an older one) or a run's folder: steps, file names, data and noise continue where they "
        "were; for a state that sd-scripts wrote, an error says what to do",
    ),
    Option("initial_epoch", "int", to="first_epoch", state="improved", note=INITIAL_STEP),
    Option("initial_step", "int", to="first_step", state="improved", note=INITIAL_STEP),
    Option(
        "skip_until_initial_step",
        state="improved",
        note="always on, and no data is loaded for the skipped steps",
    ),
    # Hugging Face hub
    Option(
        "huggingface_repo_id",
        "text",
        to="hooks.upload.repo",
        state="improved",
        note="each file is uploaded as soon as it is written; a failed upload gives a note and does not stop the run",
    ),
    Option("huggingface_repo_type", "text", to="hooks.upload.repo_type", choices=("model", "dataset", "space")),
    Option("huggingface_path_in_repo", "text", to="hooks.upload.path"),
    Option(
        "huggingface_token",
        "text",
        to="hooks.upload.token_from",
        state="improved",
        note="not written to any file; without it, HF_TOKEN or the login of this machine is used",
    ),
    Option("huggingface_repo_visibility", "text", to="hooks.upload.public"),
    Option("save_state_to_huggingface", to="hooks.upload.states"),
    Option("resume_from_huggingface", note="resume is then `user/repo/path:revision:type`"),
    Option(
        "async_upload",
        to="hooks.upload.background",
        state="improved",
        note="the run ends when all files are uploaded",
    ),
)
