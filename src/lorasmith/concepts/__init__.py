"""New words for the text encoder: textual inversion (arXiv 2208.01618), of one or many vectors, shared by all
cross-attention layers or one set for each (P+, arXiv 2303.09522)."""

from lorasmith.concepts.config import Concept
from lorasmith.concepts.vocabulary import Vocabulary

__all__ = ["Concept", "Vocabulary"]
