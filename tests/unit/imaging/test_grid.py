"""Labelled grids."""

from __future__ import annotations

import numpy as np
from PIL import Image

from lorasmith.imaging.grid import BACKGROUND, add_caption, captioned_grid, grid
from lorasmith.imaging.png import to_image


def tile(color: tuple[int, int, int], size: tuple[int, int] = (64, 48)) -> Image.Image:
    return Image.new("RGB", size, color)


def count(image: Image.Image, color: tuple[int, int, int]) -> int:
    return int((np.asarray(image) == color).all(-1).sum())


RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def test_every_picture_is_whole_and_labels_have_room_of_their_own() -> None:
    rows = [[tile(RED), tile(GREEN, (80, 40))], [tile(BLUE)]]
    labels = {"row_labels": ["before", "after " * 60], "column_labels": ["a", "b " * 90], "title": "words " * 50}
    for options in ({}, labels):
        sheet = grid(rows, **options)
        assert [count(sheet, c) for c in (RED, GREEN, BLUE)] == [64 * 48, 80 * 40, 64 * 48]
    dark = (np.asarray(grid(rows, **labels)).max(-1) < 100).sum()
    assert dark > 500


def test_rows_and_columns_are_where_they_belong() -> None:
    sheet = grid([[tile(RED), tile(GREEN)], [tile(BLUE), tile(RED)]])
    w, h = sheet.size
    corners = [sheet.getpixel(p) for p in ((w // 4, h // 4), (3 * w // 4, h // 4), (w // 4, 3 * h // 4))]
    assert corners == [RED, GREEN, BLUE]


def test_many_are_folded() -> None:
    sheet = captioned_grid([tile(RED)] * 9, ["x"] * 9, title="nine")
    assert count(sheet, RED) == 9 * 64 * 48
    assert sheet.width < 4 * 64


def test_a_caption_stands_above() -> None:
    picture = add_caption(tile(RED), "a caption")
    assert count(picture, RED) == 64 * 48
    assert picture.getpixel((63, 0)) == BACKGROUND


def test_pixels_to_bytes() -> None:
    import torch

    values = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]).view(1, 1, 5).expand(3, 1, 5)
    assert np.asarray(to_image(values))[0, :, 0].tolist() == [0, 0, 128, 255, 255]
