from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from lorasmith.studio.app import create_app
from lorasmith.studio.security import Access

TOKEN = "correct-token"
ORIGIN = {"Origin": "http://127.0.0.1:7860", "Sec-Fetch-Site": "same-origin", "X-Lorasmith": "studio"}
"""What the front end sends with a request that changes something."""


def new_client(*folders: Path, **access: object) -> TestClient:
    """A browser that has not opened the address with the token yet."""
    app = create_app(folders, Access(token=TOKEN, **access))  # type: ignore[arg-type]
    return TestClient(app, base_url="http://127.0.0.1:7860", raise_server_exceptions=False)


@pytest.fixture
def open_studio() -> Callable[..., TestClient]:
    """A browser inside of a studio over some folders; it may do what a page of the studio may."""

    def opened(*folders: Path) -> TestClient:
        client = new_client(*folders)
        assert client.get("/", params={"token": TOKEN}).status_code == 200
        client.headers.update(ORIGIN)
        return client

    return opened
