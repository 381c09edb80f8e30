"""Options of the network."""

from lorasmith.compat.options import Option

OPTIONS = (
    Option("network_module", "text", None, to="adapter.kind"),
    Option("network_dim", "int", None, to="adapter.rank"),
    Option("network_alpha", "float", 1.0, to="adapter.alpha"),
    Option("network_dropout", "float", None, to="adapter.dropout"),
    Option("network_args", "texts", None, to="adapter"),
    Option("network_weights", "text", None, "better", "layers, kinds and ranks are always the file's", "start"),
    Option("dim_from_weights", state="pointless", note="network_weights always says the ranks"),
    Option(
        "network_train_unet_only",
        "flag",
        None,
        "better",
        "the other part takes no share in the norm of gradients",
        "optimizer.text_lr",
    ),
    Option("network_train_text_encoder_only", to="optimizer.unet_lr"),
    Option("scale_weight_norms", "float", None, to="adapter.max_norm"),
)
