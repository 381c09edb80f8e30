"""Options that choose the base model."""

from lorasmith.compat.options import Option

OPTIONS = (
    Option("pretrained_model_name_or_path", "text", to="base"),
    Option("v2", state="no_effect", note="the version is read from the model's files"),
    Option("v_parameterization", to="prediction"),
    Option("vae", "text", to="vae", note="a .safetensors file, a diffusers folder or a hub id; no pickles"),
    Option(
        "tokenizer_cache_dir", "text", state="no_effect", note="the tokenizer comes with the model or with lorasmith"
    ),
    Option("no_half_vae", state="no_effect", note="the VAE never computes in fp16"),
    Option("lowram", state="no_effect", note="weights are read tensor by tensor, directly to the device"),
    # LoRAs that are merged into the base before training
    Option(
        "base_weights",
        "texts",
        to="merge",
        state="improved",
        note="the merged files have no influence on which layers are trained",
    ),
    Option("base_weights_multiplier", "floats", to="merge"),
)
