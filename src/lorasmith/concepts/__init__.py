"""New tokens for the text encoder: textual inversion (arXiv 2208.01618), with one or many vectors, the same for all
cross-attention layers or one set for each (P+, arXiv 2303.09522)."""

from typing import TYPE_CHECKING, Any

from lorasmith.concepts.config import Concept

if TYPE_CHECKING:
    from lorasmith.concepts.vocabulary import NewToken, Vocabulary

__all__ = ["Concept", "NewToken", "Vocabulary"]


def __getattr__(name: str) -> Any:
    """The other names, imported when they are first used: their module needs torch, and configs do not."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lorasmith.concepts import vocabulary

    return getattr(vocabulary, name)
