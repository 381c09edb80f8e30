"""The functions of the public API that prepare the pictures of a folder: caption, masks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorasmith.core.progress import Progress

if TYPE_CHECKING:
    from lorasmith.data.captioners import CaptionReport
    from lorasmith.data.maskers import MaskReport


def caption(
    images: Path | str,
    model: Path | str,
    *,
    prefix: str = "",
    overwrite: bool = False,
    settings: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> CaptionReport:
    """Write captions for the images of a folder by a model in a local folder; nothing is downloaded.

    `model`: of a captioning model (transformers) or a tagging model (`model.onnx`, `selected_tags.csv`). `prefix`: text
    before each caption. `settings`: `device`, `threshold`, `prompt`, `max_tokens`. Captions that exist are not changed
    unless `overwrite` is set.
    """
    from pydantic import ValidationError

    from lorasmith.core.errors import LorasmithError
    from lorasmith.data.captioners import captioner_of, write_captions

    try:
        captioner = captioner_of(Path(model), settings or {})
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
        raise LorasmithError("; ".join(lines)) from None
    return write_captions(Path(images), captioner, prefix=prefix, overwrite=overwrite, progress=progress or Progress())


def masks(
    images: Path | str,
    source: str = "alpha",
    *,
    output: Path | str | None = None,
    overwrite: bool = False,
    settings: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> MaskReport:
    """Make a mask of the subject for each image of a folder (default: in `images/masks`), and a contact sheet of them.

    `source`: `alpha`, `color` or `rembg`, with its `settings` (`{"color": "white", "tolerance": 0.2}`). Existing masks
    are not changed unless `overwrite` is set. The result lists masks that are probably wrong.

    >>> made = lorasmith.masks("photos/mia", "color")
    >>> len(made.made), made.sheet.name
    (4, 'contact-sheet.jpg')
    """
    from PIL import Image

    from lorasmith.core.config import validate
    from lorasmith.data.images import decode
    from lorasmith.data.maskers.config import MaskConfig
    from lorasmith.data.maskers.make import make_masks
    from lorasmith.imaging.contact_sheet import mask_contact_sheet

    table = {"source": {"kind": source, **(settings or {})}}
    masker = validate(MaskConfig, table, "masks").source
    folder = None if output is None else Path(output)
    report = make_masks(Path(images), masker, output=folder, overwrite=overwrite, progress=progress or Progress())
    coverage = report.made | report.kept
    labels = [f"{path.name}: {share:.0%}" for path, share in coverage.items()]
    # a generator, so that one image at a time is in memory
    masked = ((decode(path.read_bytes())[0], Image.open(report.mask(path))) for path in coverage)
    report.sheet = mask_contact_sheet(masked, labels, report.folder / "contact-sheet.jpg")
    return report
