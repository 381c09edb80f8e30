"""Pictures to numbers: what `lorasmith evaluate` and the hook `scores` have in common."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lorasmith.core.quality import NumberValues
from lorasmith.evaluation.base import FeatureExtractor, Features
from lorasmith.evaluation.measure import Measurement, measure
from lorasmith.evaluation.numbers import drift_values, quality_values
from lorasmith.evaluation.pictures import EvaluatedPicture

Seen = tuple[Sequence[EvaluatedPicture], Features]
"""Pictures and their vectors."""


def score_pictures(
    extractor: FeatureExtractor, seen: Seen, training: Features, base: Seen | None, trigger: str
) -> tuple[Measurement, NumberValues]:
    """The scores of pictures, and the values of likeness, text, copying and, if there are pictures of the base alone,
    drift."""
    pictures, features = seen
    measurement = measure(features, text_vectors(extractor, pictures), training)
    scores = {"likeness": measurement.image, "text": measurement.text, "copying": measurement.copying}
    values = quality_values(pictures, scores, trigger)
    if base is not None:
        base_pictures, base_features = base
        values |= drift_values(pictures, features.image, base_pictures, base_features.image, trigger)
    return measurement, values


def text_vectors(extractor: FeatureExtractor, pictures: Sequence[EvaluatedPicture]) -> Tensor:
    """The vector of the text of each picture, (n, k); NaN where there is no text. Equal texts are encoded once."""
    texts = list(dict.fromkeys(picture.text for picture in pictures))
    vectors = extractor.texts(texts)
    # A candidate has few different texts, because each prompt has many pictures.
    rows = {text: row for row, text in enumerate(texts)}
    if "" in rows:
        vectors[rows[""]] = float("nan")
    return vectors[[rows[picture.text] for picture in pictures]]
