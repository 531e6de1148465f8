"""The server: our gate in front, our own routes for files, Gradio's page behind."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from app.adapters_routes import adapters_routes
from app.compare_routes import compare_routes
from app.gate import LOOPBACK, Access, Gate
from app.media import media_routes
from app.run_routes import run_routes
from app.sets_routes import sets_routes
from app.setup_routes import setup_routes
from app.studio import Studio
from app.trash_routes import trash_routes

MAX_FILE = "50mb"


@dataclass(frozen=True)
class Listening:
    """Where the page is to be reached. `is_open` is what --listen asks for: from other machines, with a token."""

    host: str = "127.0.0.1"
    port: int = 7860
    is_open: bool = False
    names: tuple[str, ...] = ()
    token: str | None = None

    @property
    def access(self) -> Access:
        return Access.open_to(self.names, self.secret)

    @property
    def secret(self) -> str | None:
        return self.token if self.is_open or self.token else None


def listening(host: str | None, port: int, listen: bool, names: Iterable[str], token: str | None) -> Listening:
    """What the options come to; a server that others can reach never goes without a token."""
    address = host or ("0.0.0.0" if listen else "127.0.0.1")
    is_open = address not in LOOPBACK
    names = (*names, socket.gethostname().lower()) if is_open else tuple(names)
    return Listening(address, port, is_open, names, token or (secrets.token_urlsafe(24) if is_open else None))


def build_server(studio: Studio, where: Listening) -> FastAPI:
    """The whole application. Importing Gradio takes seconds, so it is imported here and not before."""
    prepare_gradio(studio)
    import gradio as gr  # noqa: PLC0415 - after its environment is set

    from app.page import build_page  # noqa: PLC0415 - imports gradio
    from app.theme import STATIC, studio_theme, stylesheet  # noqa: PLC0415 - imports gradio

    server = FastAPI(title="DoRA Studio", openapi_url=None, docs_url=None, redoc_url=None)
    server.add_middleware(Gate, access=where.access)
    server.include_router(media_routes(studio))
    server.include_router(sets_routes(studio))
    server.include_router(adapters_routes(studio))
    server.include_router(compare_routes(studio))
    server.include_router(run_routes(studio))
    server.include_router(setup_routes(studio))
    server.include_router(trash_routes(studio))
    page = build_page(studio)
    page.queue(default_concurrency_limit=8, max_size=64)
    return gr.mount_gradio_app(
        server,
        page,
        path="/",
        server_name=where.host,
        server_port=where.port,
        footer_links=[],
        run_history=False,
        show_error=True,
        max_file_size=MAX_FILE,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=studio_theme(),
        css=stylesheet(),
        head='<meta name="viewport" content="width=device-width, initial-scale=1">',
        favicon_path=str(STATIC / "favicon.png"),
        app_kwargs={"docs_url": None, "redoc_url": None, "openapi_url": None},
    )


def prepare_gradio(studio: Studio) -> None:
    """What Gradio reads from the environment when it is imported: nothing leaves this machine."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(studio.uploads)
    os.environ["GRADIO_RUN_HISTORY"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"


def serve(studio: Studio, where: Listening) -> None:
    """Until Ctrl-C."""
    Path(studio.home.path).mkdir(parents=True, exist_ok=True)
    config = uvicorn.Config(
        build_server(studio, where),
        host=where.host,
        port=where.port,
        log_level="warning",
        timeout_graceful_shutdown=2,  # pages that are open would keep it alive
        server_header=False,
    )
    uvicorn.Server(config).run()
