"""The suffixes of image files. Apart from `images.py`, so that listing files imports no imaging library."""

from __future__ import annotations

SUFFIXES = {
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".avif", ".heic", ".heif", ".hif", ".jxl", ".jp2", ".tga", ".ppm", ".pgm", ".pbm", ".pnm"),
}
