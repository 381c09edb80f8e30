"""New tokens for the text encoder: textual inversion (arXiv 2208.01618), with one or many vectors, the same for all
cross-attention layers or one set for each (P+, arXiv 2303.09522)."""

from lorasmith.concepts.config import Concept
from lorasmith.concepts.vocabulary import NewToken, Vocabulary

__all__ = ["Concept", "NewToken", "Vocabulary"]
