"""Options of the network."""

from lorasmith.compat.options import Option

OPTIONS = (
    Option("network_module", "text", to="adapter.kind"),
    Option("network_dim", "int", to="adapter.rank"),
    Option("network_alpha", "float", 1.0, to="adapter.alpha"),
    Option("network_dropout", "float", to="adapter.dropout"),
    Option("network_args", "texts", to="adapter"),
    Option(
        "network_weights",
        "text",
        to="start",
        state="improved",
        note="layers, kinds and ranks are always those of the file",
    ),
    Option("dim_from_weights", state="no_effect", note="ranks are always read from network_weights"),
    Option(
        "network_train_unet_only",
        to="optimizer.text_lr",
        state="improved",
        note="the text encoder does not count in the gradient norm",
    ),
    Option("network_train_text_encoder_only", to="optimizer.unet_lr"),
    Option("scale_weight_norms", "float", to="adapter.max_norm"),
)
