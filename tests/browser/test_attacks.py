"""A page of another site in the same browser, where somebody is logged in to the studio."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import Studio
from tests.browser.test_runs_and_data import make_images
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

PAGE = """<!doctype html><title>waiting</title><form id=f method=post action=STUDIO/api/data/captions target=frame
enctype=text/plain><input name='{"folder":"images","changes":[{"name":"0.png","before":"garp, number 0","after":"'
value='written by a form"}]}'></form><iframe name=frame></iframe><iframe src=STUDIO/></iframe>
<img id=i src="STUDIO/api/pictures/small?file=images/0.png&side=96"><script>
const body = JSON.stringify({folder: "images", changes: [{name: "0.png", before: "garp, number 0", after: "stolen"}]});
const results = [];
const ask = async (name, url, options) => {
  try {
    const answer = await fetch(url, {credentials: "include", ...options});
    results.push(name + " " + answer.type + " " + (await answer.text()).length);
  } catch (error) { results.push(name + " refused"); }
};
(async () => {
  await ask("read", "STUDIO/api/data/open?folder=images", {});
  await ask("read blindly", "STUDIO/api/data/open?folder=images", {mode: "no-cors"});
  await ask("write", "STUDIO/api/data/captions", {method: "POST", body, headers:
    {"Content-Type": "application/json", "X-Lorasmith": "studio"}});
  await ask("write blindly", "STUDIO/api/data/captions", {method: "POST", body, mode: "no-cors"});
  document.getElementById("f").submit();
  await new Promise((resolve) => setTimeout(resolve, 1500));
  results.push("picture " + document.getElementById("i").naturalWidth);
  document.title = results.join(", ");
})();
</script>"""


@pytest.fixture
def other_site() -> Iterator[Callable[[str], int]]:
    """A web site on another port of this machine, which the browser takes for the same site. Returns its port."""
    servers: list[HTTPServer] = []

    def start(studio: str) -> int:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.end_headers()
                self.wfile.write(PAGE.replace("STUDIO", studio).encode())

            def log_message(self, format: str, *args: object) -> None: ...

        servers.append(HTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return servers[-1].server_port

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "evil.example"])
def test_another_site_reads_and_writes_nothing(
    tmp_path: Path, studio: Callable[..., Studio], browser: Any, other_site: Callable[[str], int], host: str
) -> None:
    """`evil.example` here points to 127.0.0.1, as a site does that wants to be taken for the studio."""
    images = make_images(tmp_path / "images", 1)
    running = studio(images)
    port = other_site(running.url.split("/?")[0])
    context = browser.new_context()
    page = context.new_page()
    page.goto(running.url)
    page.get_by_role("link", name="Data").wait_for()
    if host == "evil.example":
        answer = page.request.get(running.url.replace("127.0.0.1", "localhost"), headers={"Host": f"{host}:80"})
        assert answer.status == 421
    else:
        page.goto(f"http://{host}:{port}/")
        wait_until(lambda: page.title() != "waiting", 30)
        results = page.title().split(", ")
        assert results[0] == "read refused"
        assert results[1] in ("read blindly opaque 0", "read blindly refused")
        assert results[2] == "write refused"
        assert results[-1] == "picture 0"
        # nor is the studio shown in a frame, where clicks could be stolen
        assert page.frames[-1].evaluate("document.body?.innerText ?? ''").find("Lorasmith") < 0
    assert (images / "0.txt").read_text() == "garp, number 0\n"
    context.close()
