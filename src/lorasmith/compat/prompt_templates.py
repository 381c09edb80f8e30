"""Prompt templates for textual inversion, into which the caption or the new token is inserted."""

TEMPLATES = {
    "object": (
        "a photo of {caption}",
        "a picture of {caption}",
        "a close-up photo of {caption}",
        "a photo of one {caption}",
        "{caption} in bright light",
        "a dark photo of {caption}",
        "a cropped photo of {caption}",
        "a clean photo of {caption}",
        "a small picture of {caption}",
        "a rendering of {caption}",
        "a good photo of {caption}",
        "{caption}",
    ),
    "style": (
        "a painting in the style of {caption}",
        "a picture in the style of {caption}",
        "{caption} style artwork",
        "a drawing in the style of {caption}",
        "a rendering in the style of {caption}",
        "a detail in the style of {caption}",
    ),
}
"""Our own wording; the purpose of the templates is variety."""
