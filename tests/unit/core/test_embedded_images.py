"""Names in a config for the images and masks of the package."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorasmith.core.embedded_images import embedded_images, embedded_masks, name_in_config
from lorasmith.core.package import assets
from lorasmith.data.config import SubsetConfig


def test_images_and_masks_of_the_package_are_found_by_name() -> None:
    subset = SubsetConfig.model_validate({"images": "lorasmith:garp", "masks": "lorasmith:garp/masks"})
    assert subset.images == assets() / "garp"
    assert subset.masks == assets() / "garp" / "masks"


@pytest.mark.parametrize(("read", "known"), [(embedded_images, "lorasmith:others"), (embedded_masks, "garp/masks")])
def test_an_unknown_name_is_refused_with_the_known_ones(read: object, known: str) -> None:
    assert callable(read)
    with pytest.raises(ValueError, match=known):
        read("lorasmith:grap")


def test_a_folder_of_the_package_has_a_name_that_is_right_on_every_machine(tmp_path: Path) -> None:
    assert name_in_config(assets() / "garp" / "masks") == "lorasmith:garp/masks"
    assert name_in_config(tmp_path / "masks") == str(tmp_path / "masks")
