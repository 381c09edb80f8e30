"""Options of captions and the text encoder."""

from lorasmith.compat.options import Option

OPTIONS = (
    Option("caption_extension", "text", ".caption", to="data.subsets.caption_extension"),
    Option("caption_extention", "text", None, to="data.subsets.caption_extension", note="old spelling"),
    Option(
        "shuffle_caption",
        "flag",
        None,
        "better",
        "each view draws its own, also with several workers",
        "data.subsets.transforms",
    ),
    Option("keep_tokens", "int", 0, to="data.subsets.transforms"),
    Option(
        "keep_tokens_separator",
        "text",
        "",
        "better",
        "it never stays in the caption, shuffled or not",
        "data.subsets.transforms",
    ),
    Option("caption_separator", "text", ",", to="data.subsets.transforms"),
    Option("secondary_separator", "text", None, to="data.subsets.transforms"),
    Option("enable_wildcard", to="data.subsets.transforms"),
    Option("caption_prefix", "text", None, to="data.subsets.transforms"),
    Option("caption_suffix", "text", None, to="data.subsets.transforms"),
    Option("caption_dropout_rate", "float", 0.0, to="data.subsets.transforms"),
    Option(
        "caption_dropout_every_n_epochs",
        "int",
        0,
        "better",
        "only the epochs that are meant lose their captions, with several workers too",
        "data.subsets.transforms",
    ),
    Option("caption_tag_dropout_rate", "float", 0.0, to="data.subsets.transforms"),
    Option("token_warmup_min", "int", 1, to="data.subsets.transforms"),
    Option("token_warmup_step", "float", 0, to="data.subsets.transforms"),
    Option("max_token_length", "int", None, to="text.max_tokens"),
    Option(
        "weighted_captions",
        "flag",
        None,
        "better",
        "a caption means what the same prompt means when sampling: each window keeps the mean of its states",
        "text.weighted",
    ),
    Option("clip_skip", "int", None, to="text.clip_skip"),
)
