"""Every mode of picture becomes the RGB that a person sees."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lorasmith.data import images
from lorasmith.data.image_suffixes import SUFFIXES
from lorasmith.data.images import decode, register_plugins, resize_and_crop

RED = (200, 30, 40)


def saved(picture: Image.Image, suffix: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, suffix, **options)
    return file.getvalue()


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(decode(data)[0])


def corner_picture() -> Image.Image:
    """6 x 4, black, with one red pixel in the left top corner."""
    picture = Image.new("RGB", (6, 4))
    picture.putpixel((0, 0), RED)
    return picture


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp"])
def test_lossless_rgb_is_exact(suffix: str) -> None:
    values = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    options = {"lossless": True} if suffix == "webp" else {}
    assert np.array_equal(pixels(saved(Image.fromarray(values), suffix, **options)), values)


@pytest.mark.parametrize("suffix", ["ppm", "tga", "jpeg2000"])
def test_further_lossless_formats(suffix: str) -> None:
    values = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    assert np.array_equal(pixels(saved(Image.fromarray(values), suffix)), values)


@pytest.mark.parametrize("suffix", [".heic", ".HEIF", ".hif", ".jfif", ".avif", ".ppm", ".pgm", ".jp2", ".tga", ".jxl"])
def test_suffixes_of_pictures(suffix: str) -> None:
    assert suffix.lower() in SUFFIXES


@pytest.mark.parametrize("suffix", ["heif", "jxl"])
def test_formats_of_plugins(suffix: str) -> None:
    pytest.importorskip({"heif": "pillow_heif", "jxl": "pillow_jxl"}[suffix])
    register_plugins()
    got = pixels(saved(Image.new("RGB", (32, 24), RED), suffix, quality=95))
    assert got.shape == (24, 32, 3)
    assert np.abs(got.astype(int) - RED).max() <= 6


def test_a_photo_of_a_phone_stands_upright() -> None:
    """HEIF has a rotation of its own, beside which that of EXIF does not count twice."""
    pytest.importorskip("pillow_heif")
    register_plugins()
    stored = corner_picture().resize((48, 32), Image.Resampling.NEAREST)
    stored.getexif()[0x0112] = 6
    got = pixels(saved(stored, "heif", quality=95))
    assert got.shape[:2] == (48, 32)
    assert got[1, -2, 0] > 120
    assert (got[:, :, 0] > 120).mean() < 0.1


@pytest.mark.parametrize(
    ("data", "name", "install"),
    [
        (b"\xff\x0a" + bytes(40), "JPEG XL", "lorasmith[jxl]"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40), "JPEG XL", "lorasmith[jxl]"),
        (b"\0\0\0\x18ftypheic" + bytes(40), "HEIF", "pillow-heif"),
        (b"\0\0\0\x18ftypmif1" + bytes(40), "HEIF", "pillow-heif"),
    ],
)
def test_a_format_without_its_package_is_named(
    data: bytes, name: str, install: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unidentified(file: object) -> None:
        raise images.UnidentifiedImageError("cannot identify image file")

    monkeypatch.setattr(images.Image, "open", unidentified)
    monkeypatch.setattr(images.importlib.util, "find_spec", lambda module: None)
    with pytest.raises(ValueError, match=name) as caught:
        decode(data)
    assert install in str(caught.value)
    monkeypatch.setattr(images.importlib.util, "find_spec", lambda module: module)
    with pytest.raises(ValueError, match=f"{name} picture that is not complete"):
        decode(data)


@pytest.mark.parametrize("suffix", ["jpeg", "avif"])
def test_lossy_formats_are_read(suffix: str) -> None:
    if suffix == "avif":
        from PIL import features

        if not features.check("avif"):
            pytest.skip("this Pillow has no AVIF")
    got = pixels(saved(Image.new("RGB", (32, 24), RED), suffix, quality=95))
    assert got.shape == (24, 32, 3)
    assert np.abs(got.astype(int) - RED).max() <= 6


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpeg", "png", "webp", "tiff"])
def test_pictures_stand_upright(suffix: str, orientation: int) -> None:
    """Where the left top corner of the stored picture is seen, by the EXIF standard."""
    seen = {
        1: ("left", "top"),
        2: ("right", "top"),
        3: ("right", "bottom"),
        4: ("left", "bottom"),
        5: ("left", "top"),
        6: ("right", "top"),
        7: ("right", "bottom"),
        8: ("left", "bottom"),
    }
    stored = corner_picture().resize((48, 32), Image.Resampling.NEAREST)
    exif = Image.Exif()
    exif[0x0112] = orientation
    got = pixels(saved(stored, suffix, exif=exif))
    assert got.shape[:2] == ((48, 32) if orientation >= 5 else (32, 48))
    across, down = seen[orientation]
    y = 1 if down == "top" else -2
    x = 1 if across == "left" else -2
    assert got[y, x, 0] > 120
    assert (got[:, :, 0] > 120).mean() < 0.1


def test_a_broken_exif_block_does_no_harm() -> None:
    data = saved(corner_picture(), "png", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    assert pixels(data).shape == (4, 6, 3)


def test_alpha_is_laid_over_white() -> None:
    layered = Image.new("RGBA", (3, 1))
    for x, alpha in enumerate((0, 51, 255)):
        layered.putpixel((x, 0), (*RED, alpha))
    picture, alpha = decode(saved(layered, "png"))
    expected = [[round(255 + (c - 255) * a / 255) for c in RED] for a in (0, 51, 255)]
    assert np.abs(np.asarray(picture)[0].astype(int) - expected).max() <= 1
    assert alpha is not None
    assert list(alpha.tobytes()) == [0, 51, 255]


def test_grey_with_alpha() -> None:
    layered = Image.merge("LA", (Image.new("L", (2, 2), 100), Image.new("L", (2, 2), 0)))
    picture, alpha = decode(saved(layered, "png"))
    assert np.asarray(picture).min() == 255
    assert alpha is not None


def test_palettes_and_their_transparent_colour() -> None:
    indexed = Image.new("P", (2, 1))
    indexed.putpalette([*RED, 0, 0, 250])
    indexed.putpixel((1, 0), 1)
    assert pixels(saved(indexed, "png"))[0].tolist() == [list(RED), [0, 0, 250]]
    picture, alpha = decode(saved(indexed, "png", transparency=1))
    assert np.asarray(picture)[0].tolist() == [list(RED), [255, 255, 255]]
    assert alpha is not None
    assert pixels(saved(indexed, "gif"))[0].tolist() == [list(RED), [0, 0, 250]]


def test_rgb_with_one_transparent_colour() -> None:
    picture, alpha = decode(saved(corner_picture(), "png", transparency=RED))
    assert np.asarray(picture)[0, 0].tolist() == [255, 255, 255]
    assert alpha is not None
    assert np.asarray(picture)[1, 1].tolist() == [0, 0, 0]


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bit_grey_is_scaled_and_not_cut(suffix: str) -> None:
    values = np.array([[0, 257, 257 * 200, 65535]], dtype=np.uint16)
    got = pixels(saved(Image.fromarray(values), suffix))
    assert got[0].tolist() == [[0] * 3, [1] * 3, [200] * 3, [255] * 3]


def test_float_grey() -> None:
    values = np.array([[0.0, 0.5, 1.0]], dtype=np.float32)
    assert pixels(saved(Image.fromarray(values), "tiff"))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_8_bit_values_in_larger_numbers(dtype: type) -> None:
    values = np.array([[0, 128, 255]], dtype=dtype)
    assert pixels(saved(Image.fromarray(values), "tiff"))[0, :, 0].tolist() == [0, 128, 255]


def test_16_bit_values_in_larger_numbers() -> None:
    values = np.array([[0, 257 * 128, 65535]], dtype=np.int32)
    assert pixels(saved(Image.fromarray(values), "tiff"))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused(value: float) -> None:
    values = np.full((4, 4), 0.5, dtype=np.float32)
    values[1, 2] = value
    with pytest.raises(ValueError, match="not numbers"):
        decode(saved(Image.fromarray(values), "tiff"))


@pytest.mark.parametrize("values", [np.array([[0, 70000]], np.int32), np.array([[0, 1e9]], np.float32)])
def test_values_of_an_unknown_range_are_refused(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match="more than 16 bits"):
        decode(saved(Image.fromarray(values), "tiff"))


def test_large_pictures(monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder) -> None:
    """Below the limit without a word, above it with the size."""
    data = saved(Image.new("1", (1500, 1000)), "png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500_000)
    with pytest.raises(ValueError, match=r"^2 megapixels are more than is read \(1\); make it smaller$"):
        decode(saved(Image.new("1", (1500, 1001)), "png"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    images.ignore_size_warnings()
    assert pixels(data).shape == (1000, 1500, 3)
    assert not recwarn.list


def test_grey_and_two_colours() -> None:
    assert pixels(saved(Image.new("L", (2, 2), 77), "png")).tolist() == [[[77] * 3] * 2] * 2
    assert pixels(saved(Image.new("1", (2, 2), 1), "png")).min() == 255


def test_cmyk() -> None:
    got = pixels(saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "jpeg", quality=95))
    assert np.abs(got.astype(int) - [255, 0, 0]).max() <= 4


def test_of_a_moving_picture_the_first_frame_counts() -> None:
    frames = [Image.new("RGB", (4, 4), RED), Image.new("RGB", (4, 4))]
    assert pixels(saved(frames[0], "png", save_all=True, append_images=frames[1:]))[0, 0].tolist() == list(RED)


@pytest.mark.parametrize("suffix", ["png", "jpeg", "webp", "gif", "bmp", "tiff"])
def test_a_cut_file_is_an_error_at_any_place(suffix: str) -> None:
    values = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = saved(Image.fromarray(values), suffix)
    for share in (0.01, 0.1, 0.5, 0.9):
        with pytest.raises(ValueError, match="picture"):
            decode(whole[: int(len(whole) * share)])


def test_what_is_no_picture() -> None:
    with pytest.raises(ValueError, match="empty"):
        decode(b"")
    with pytest.raises(ValueError, match="not a picture"):
        decode(b"<html>404</html>")


def test_fit_keeps_the_mean_when_it_shrinks() -> None:
    values = np.random.default_rng(2).integers(0, 256, (64, 32, 3), dtype=np.uint8)
    got = resize_and_crop(Image.fromarray(values), (8, 16), (0, 4, 8, 12))
    blocks = values.reshape(16, 4, 8, 4, 3).mean((1, 3))[4:12]
    assert np.abs(got - blocks).max() <= 1


@pytest.mark.parametrize("how", ["area", "nearest", "bilinear", "bicubic", "lanczos"])
def test_fit_in_the_way_that_is_asked_for(how: str) -> None:
    values = np.random.default_rng(0).integers(0, 256, (32, 24, 3), dtype=np.uint8)
    names = {"area": "BOX"}
    for size in ((12, 16), (36, 48)):
        expected = Image.fromarray(values).resize(size, Image.Resampling[names.get(how, how.upper())])
        assert np.array_equal(resize_and_crop(Image.fromarray(values), size, (0, 0, *size), how), np.asarray(expected))
    auto = resize_and_crop(Image.fromarray(values), (12, 16), (0, 0, 12, 16))
    explicit = resize_and_crop(Image.fromarray(values), (12, 16), (0, 0, 12, 16), how)
    assert np.array_equal(auto, explicit) == (how == "area")
