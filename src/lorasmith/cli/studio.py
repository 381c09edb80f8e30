"""`lorasmith studio`: runs, data, configs and LoRA files in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lorasmith.cli import console
from lorasmith.core.errors import LorasmithError

ANY_ADDRESS = ("0.0.0.0", "::")
"""Hosts that stand for all addresses of this machine."""


def studio_command(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FOLDER", help="Folders of runs, images and LoRA files. Default: this one."),
    ] = None,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on. Default: this machine alone can reach it.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option("--port", min=0, max=65535, help="Default: 7860, or any free one if that is taken."),
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option("--name", metavar="HOST", help="A name by which browsers may call this machine; repeatable."),
    ] = None,
    open_browser: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the page in a browser of this machine.")
    ] = False,
) -> None:
    """See runs, data and LoRAs in the browser.

    Shows every run below the folders, also those that were started in a terminal. Nothing outside of the folders is
    read or written. Open the address that is printed: it has a token, without which nothing is answered. Runs go on
    when the studio is stopped.
    """
    try:
        from lorasmith.studio.app import bind, create_app, is_loopback, serve
        from lorasmith.studio.security import Access
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("starlette", "uvicorn"):
            raise
        raise LorasmithError(
            "the studio needs starlette and uvicorn; install them with: pip install lorasmith[studio]"
        ) from None

    names = frozenset(text.lower() for text in name or [])
    access = Access(host_names=names, only_loopback=is_loopback(host))
    app = create_app(folders or [Path()], access)
    with bind(host, port) as listener:
        address = listener.getsockname()
        if not access.only_loopback:
            console.say(
                f"--host {host}: other machines can reach the studio. Everybody who has the address below can read and "
                "change the files of these folders and start programs on this machine, and the connection is not "
                "encrypted. Safer: leave out --host and reach this machine through: "
                f"ssh -L {address[1]}:127.0.0.1:{address[1]} THIS_MACHINE"
            )
        shown = shown_host(host)
        url = f"http://{shown}:{address[1]}/?token={access.token}"
        console.say(f"studio: {url}")
        if host in ANY_ADDRESS:
            console.say("(on other machines, with the address of this one in place of 127.0.0.1)")
        console.say("Ctrl-C stops the studio; runs go on.")
        if open_browser:
            typer.launch(url)
        serve(app, listener)


def shown_host(host: str) -> str:
    """The host as it is written in an address; for all addresses of this machine, the loopback one."""
    if host in ANY_ADDRESS:
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host
