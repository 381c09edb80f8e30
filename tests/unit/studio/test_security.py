"""Attacks on the studio. Each request here is one that a page of another site, another user of the machine or a hostile
folder could bring about."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from lorasmith.core.errors import LorasmithError
from lorasmith.studio.app import STATIC
from lorasmith.studio.paths import OutsideError, Roots
from lorasmith.studio.security import Access
from tests.unit.studio.conftest import ORIGIN, TOKEN, new_client

Open = Callable[..., TestClient]


def test_nothing_is_answered_without_the_token(tmp_path: Path) -> None:
    client = new_client(tmp_path)
    for path in ("/", "/api/session", "/static/app.js", "/api/runs/list", "/?token=wrong", "/?token="):
        assert client.get(path).status_code == 401, path
    assert client.post("/?token=" + TOKEN, headers=ORIGIN).status_code == 401


def test_the_token_becomes_a_cookie_that_scripts_and_other_sites_do_not_get(tmp_path: Path) -> None:
    client = new_client(tmp_path)
    cookie = client.get("/", params={"token": TOKEN}).headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert client.get("/api/session").json()["roots"][0]["name"] == tmp_path.name


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:7860",
        "127.0.0.1.evil.example",
        "127.0.0.1@evil.example",
        "10.0.0.5",
        "",
        "a/b",
        "[::",
    ],
)
def test_a_host_name_that_points_here_is_refused(tmp_path: Path, open_studio: Open, host: str) -> None:
    """DNS rebinding: a page of evil.example lets its name point to 127.0.0.1 and is then of the same origin."""
    assert open_studio(tmp_path).get("/api/session", headers={"Host": host}).status_code == 421


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:9999", "[::1]:7860"])
def test_this_machine_may_be_called_by_its_names(host: str) -> None:
    assert Access().allows_host(host)


def test_a_studio_for_other_machines_is_called_by_address_or_a_given_name() -> None:
    access = Access(only_loopback=False, host_names=frozenset({"trainer.lan"}))
    assert access.allows_host("10.0.0.5:7860")
    assert access.allows_host("trainer.lan:7860")
    assert not access.allows_host("evil.example:7860")


@pytest.mark.parametrize(
    "changed",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:8888"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"X-Lorasmith": ""},
    ],
    ids=str,
)
def test_another_page_can_change_nothing(tmp_path: Path, open_studio: Open, changed: dict[str, str]) -> None:
    """Another port of this machine is the same site, so its pages send the cookie too."""
    client = open_studio(tmp_path)
    answer = client.post("/api/run/control", json={}, headers={**ORIGIN, **changed})
    assert answer.status_code == 403


def test_another_page_can_read_nothing(tmp_path: Path, open_studio: Open) -> None:
    client = open_studio(tmp_path)
    assert client.get("/api/session", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert client.get("/api/session", headers={"Origin": "http://127.0.0.1:8888"}).status_code == 403
    assert "access-control-allow-origin" not in client.get("/api/session").headers


@pytest.mark.parametrize(
    "name",
    [
        *(
            "root/../secret.txt",
            "root/./a",
            "root//a",
            "..",
            "../secret.txt",
            "/etc/passwd",
            "root/..",
            "root/a/../../secret",
        ),
        *("root\\..\\secret.txt", "root/..\\secret.txt", "root/.ssh/id", "root/a\0b", "other/a", ""),
    ],
)
def test_no_name_leads_out_of_the_roots(tmp_path: Path, name: str) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    with pytest.raises(OutsideError):
        Roots([tmp_path / "root"]).resolve(name)


def test_a_link_does_not_lead_out_of_the_roots(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / "link").symlink_to(outside)
    with pytest.raises(OutsideError, match="start the studio with that folder too"):
        Roots([root]).resolve("root/link/new.txt")
    # unless the studio was started on that folder too
    assert Roots([root, outside]).resolve("root/link/new.txt") == outside / "new.txt"


def test_names_and_paths_are_inverse(tmp_path: Path) -> None:
    for parent in ("a", "b"):
        (tmp_path / parent / "images").mkdir(parents=True)
    roots = Roots([tmp_path / "a" / "images", tmp_path / "b" / "images"])
    path = tmp_path / "b" / "images" / "x y" / "ü#1.png"
    assert roots.name_of(path) == "images-2/x y/ü#1.png"
    assert roots.resolve("images-2/x y/ü#1.png") == path
    assert roots.name_of(tmp_path) is None
    with pytest.raises(LorasmithError, match="is not a folder"):
        Roots([tmp_path / "missing"])


def test_static_files_are_those_of_the_front_end_alone(tmp_path: Path, open_studio: Open) -> None:
    client = open_studio(tmp_path)
    assert client.get("/static/app.js").headers["content-type"].startswith("text/javascript")
    for path in (
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2fapp.py",
        "/static//etc/passwd",
        "/static/",
    ):
        assert client.get(path).status_code == 404, path


def test_a_request_that_is_too_long_is_refused(tmp_path: Path, open_studio: Open) -> None:
    client = open_studio(tmp_path)
    told = client.post("/api/run/control", content=b"x", headers={"Content-Length": str(1 << 40)})
    assert told.status_code == 413

    # one that does not tell its length
    blocks = (b"x" * (1 << 20) for _ in range(70))
    assert client.post("/api/run/control", content=blocks).status_code == 413
    long_json = b'"' + b"x" * (5 << 20) + b'"'
    assert client.post("/api/run/control", content=long_json).status_code == 413


def test_only_files_of_the_studio_run_as_script(tmp_path: Path, open_studio: Open) -> None:
    client = open_studio(tmp_path)
    for path in ("/", "/api/session", "/static/app.js", "/api/missing"):
        headers = client.get(path).headers
        assert "script-src 'self'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]


def test_the_front_end_never_makes_html_of_data() -> None:
    """Captions, prompts and names of files are text nodes. Also nothing comes from outside."""
    html = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser|srcdoc")
    outside = re.compile(r"(?:src|href|import|from|url\()\W*(?:https?:)?//")
    files = [path for path in STATIC.rglob("*") if path.suffix in (".js", ".html", ".css")]
    assert len(files) > 5
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert not html.search(text), path
        assert not outside.search(text), path


def test_the_server_imports_no_torch() -> None:
    code = (
        "import sys, lorasmith.cli.studio, lorasmith.studio.app as a\n"
        "a.all_pages()\n"
        "print([m for m in ('torch', 'transformers', 'diffusers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_a_studio_ends_at_once_although_pages_are_open(tmp_path: Path) -> None:
    """Its address works, and an open stream of events does not hold it up."""
    import http.client
    import signal
    from urllib.parse import urlsplit

    command = [sys.executable, "-m", "lorasmith", "studio", str(tmp_path), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as studio:
        assert studio.stderr is not None
        address = urlsplit(studio.stderr.readline().split()[-1])
        assert address.hostname == "127.0.0.1"
        connection = http.client.HTTPConnection("127.0.0.1", address.port or 0, timeout=60)
        connection.request("GET", f"/?{address.query}")
        entry = connection.getresponse()
        entry.read()
        cookie = str(entry.getheader("set-cookie")).split(";")[0]
        connection.request("GET", "/api/runs/watch", headers={"Cookie": cookie})
        stream = connection.getresponse()
        assert stream.getheader("content-type", "").startswith("text/event-stream")
        assert stream.readline() == b": open\n"
        studio.send_signal(signal.SIGINT)
        studio.wait(60)
        assert "Traceback" not in studio.stderr.read()
