"""Options that choose the base model."""

from lorasmith.compat.options import Option

MERGED = "which layers are then trained does not depend on it"

OPTIONS = (
    Option("pretrained_model_name_or_path", "text", None, to="base"),
    Option("v2", state="pointless", note="the model's own files tell its version"),
    Option("v_parameterization", to="prediction"),
    Option("vae", "text", None, to="vae", note="a .safetensors, a folder of diffusers or a hub id; no pickles"),
    Option("tokenizer_cache_dir", "text", None, "pointless", "the tokenizer comes with the model or with lorasmith"),
    Option("no_half_vae", state="pointless", note="the VAE never computes in fp16"),
    Option("lowram", state="pointless", note="weights are read tensor by tensor, straight to the device"),
    Option("base_weights", "texts", None, "better", MERGED, "merge"),
    Option("base_weights_multiplier", "floats", None, to="merge"),
)
