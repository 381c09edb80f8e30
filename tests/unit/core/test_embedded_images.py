"""Names in a config for the images and masks of the package."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorasmith.core.embedded_images import embedded_images, embedded_masks, is_embedded
from lorasmith.core.package import assets
from lorasmith.data.config import SubsetConfig
from lorasmith.data.scan import scan


def test_images_and_masks_of_the_package_are_found_by_name() -> None:
    subset = SubsetConfig.model_validate({"images": "lorasmith:garp", "masks": "lorasmith:garp/masks"})
    assert subset.images == assets() / "garp"
    assert subset.masks == assets() / "garp" / "masks"


@pytest.mark.parametrize(("read", "known"), [(embedded_images, "lorasmith:others"), (embedded_masks, "garp/masks")])
def test_an_unknown_name_is_refused_with_the_known_ones(read: object, known: str) -> None:
    assert callable(read)
    with pytest.raises(ValueError, match=known):
        read("lorasmith:grap")


def test_folders_of_the_package_are_told_from_others(tmp_path: Path) -> None:
    assert is_embedded(assets() / "garp" / "masks")
    assert not is_embedded(tmp_path / "masks")


def test_the_images_of_the_package_cause_no_remark() -> None:
    assert scan(SubsetConfig.model_validate({"images": "lorasmith:garp"}), "data", False).remarks == []
