"""``dora-studio ui``: the page."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from threading import Timer
from typing import Annotated

import typer
from rich.console import Console

from app.server import listening, serve
from app.studio import Studio
from trainer.home import Home
from trainer.terminal import told

app = typer.Typer(help="Open the page in the browser.", add_completion=False)


@app.command()
def ui(
    host: Annotated[str | None, typer.Option(help="Address to listen at, in place of this machine's own.")] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen at.")] = 7860,
    listen: Annotated[bool, typer.Option("--listen", help="Let other machines in, by a link with a token.")] = False,
    token: Annotated[
        str | None, typer.Option(envvar="DORA_STUDIO_TOKEN", help="The token, else a new one each time.")
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Another name that the page may be reached by, such as a proxy's.")
    ] = None,
    home: Annotated[Path | None, typer.Option(help="Folder of runs and image sets.")] = None,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the browser.")] = True,
) -> None:
    """Open the page in the browser: pictures, settings, training, comparison, adapter files."""
    console = Console()
    with told():
        where = listening(host, port, listen, allow_host or (), token)
        shown = "localhost" if where.host in ("0.0.0.0", "::", "127.0.0.1") else where.host
        link = f"http://{shown}:{port}/" + (f"?token={where.secret}" if where.secret else "")
        console.print(f"DoRA Studio: {link}", soft_wrap=True)
        if where.is_open:
            console.print(
                "From another machine put its name or address in place of localhost. The link lets in whoever has it; "
                f"safer: ssh -L {port}:localhost:{port} THIS-MACHINE, and the page without --listen.",
                soft_wrap=True,
            )
        if open_browser:
            Timer(3, webbrowser.open, [link]).start()
        serve(Studio(Home.find(home)), where)


if __name__ == "__main__":
    app()
