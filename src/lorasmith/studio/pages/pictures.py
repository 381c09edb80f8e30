"""Pictures for all pages: small ones and whole files. No page by itself."""

from __future__ import annotations

from starlette.responses import FileResponse, Response

from lorasmith.studio.page import Call, Page, get, picture
from lorasmith.studio.thumbnails import thumbnail_file

LARGEST_SIDE = 768


def small(call: Call) -> Response:
    """A small picture of an image of any format: `file`, `side`."""
    file = thumbnail_file(call.path("file"), min(LARGEST_SIDE, call.number("side", 192)))
    return FileResponse(file, media_type="image/webp", headers={"Cache-Control": "private, max-age=86400"})


def whole(call: Call) -> Response:
    """A picture file as it is."""
    return picture(call.path("file"))


PAGE = Page("pictures", "Pictures", 99, [get("/small", small), get("/file", whole)], in_navigation=False)
