"""Options of captions and the text encoder."""

from lorasmith.compat.options import Option

OPTIONS = (
    # Caption files
    Option("caption_extension", "text", ".caption", to="data.subsets.caption_extension"),
    Option("caption_extention", "text", to="data.subsets.caption_extension", note="old spelling of caption_extension"),
    # Changes of captions
    Option(
        "shuffle_caption",
        to="data.subsets.transforms",
        state="improved",
        note="shuffled independently for each view of an image, also with several workers",
    ),
    Option("keep_tokens", "int", 0, to="data.subsets.transforms"),
    Option(
        "keep_tokens_separator",
        "text",
        "",
        to="data.subsets.transforms",
        state="improved",
        note="always removed from the caption, whether it is shuffled or not",
    ),
    Option("caption_separator", "text", ",", to="data.subsets.transforms"),
    Option("secondary_separator", "text", to="data.subsets.transforms"),
    Option("enable_wildcard", to="data.subsets.transforms"),
    Option("caption_prefix", "text", to="data.subsets.transforms"),
    Option("caption_suffix", "text", to="data.subsets.transforms"),
    Option("caption_dropout_rate", "float", 0.0, to="data.subsets.transforms"),
    Option(
        "caption_dropout_every_n_epochs",
        "int",
        0,
        to="data.subsets.transforms",
        state="improved",
        note="captions are dropped in exactly these epochs, also with several workers",
    ),
    Option("caption_tag_dropout_rate", "float", 0.0, to="data.subsets.transforms"),
    Option("token_warmup_min", "int", 1, to="data.subsets.transforms"),
    Option("token_warmup_step", "float", 0, to="data.subsets.transforms"),
    # Text encoder
    Option("max_token_length", "int", to="text.max_tokens"),
    Option(
        "weighted_captions",
        to="text.weighted",
        state="improved",
        note="weights have the same effect as in a prompt when sampling: the mean of each window's hidden states is "
        "preserved",
    ),
    Option("clip_skip", "int", to="text.clip_skip", note="ignored for SDXL, as in the original, with a note"),
)
