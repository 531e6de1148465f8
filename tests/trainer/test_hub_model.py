"""A base model from the hub, at a revision, with the token of a login: by a hub of our own on this computer."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import tomlkit

from dora_core.layouts import inspect_adapter
from tests.trainer.conftest import quick_settings, write_pictures

ROOT = Path(__file__).parents[2]
TOKEN = "hf_AbCdEfGhIjKlMnOpQrStUvWx"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """Answers as the hub does for owner/tiny at the revision "v1", which is COMMIT; `asked`: path and Authorization."""

    folder: Path
    asked: list[tuple[str, str | None]] = field(default_factory=list)

    def answer(self, path: str, authorization: str | None) -> tuple[int, dict[str, str], bytes]:
        self.asked.append((path, authorization))
        files = {file.relative_to(self.folder).as_posix(): file for file in self.folder.rglob("*") if file.is_file()}
        if path in ("/api/models/owner/tiny/revision/v1", f"/api/models/owner/tiny/revision/{COMMIT}"):
            facts = {"id": "owner/tiny", "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
            return 200, {}, json.dumps(facts).encode()
        if path == f"/api/models/owner/tiny/tree/{COMMIT}":
            rows = [{"type": "file", "path": n, "size": f.stat().st_size, "oid": "0" * 40} for n, f in files.items()]
            return 200, {}, json.dumps(rows).encode()
        name = path.removeprefix("/owner/tiny/resolve/").partition("/")[2]
        if path.startswith(("/owner/tiny/resolve/v1/", f"/owner/tiny/resolve/{COMMIT}/")) and name in files:
            return 200, {"ETag": f'"{name}"', "X-Repo-Commit": COMMIT}, files[name].read_bytes()
        return 404, {"X-Error-Code": "EntryNotFound"}, b""


@pytest.fixture
def hub(tiny_base: Callable[[str], Path]) -> Iterator[tuple[Hub, str]]:
    hub = Hub(tiny_base("sd1"))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            status, headers, body = hub.answer(path, self.headers.get("Authorization"))
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield hub, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_model_is_fetched_at_its_revision_with_the_token_which_is_in_nothing_that_is_kept(
    hub: tuple[Hub, str], tmp_path: Path
) -> None:
    values = quick_settings(Path("owner/tiny"), write_pictures(tmp_path / "pictures", [(40, 40), (32, 40)]))
    values["model"]["revision"] = "v1"
    values["train"]["steps"] = 1
    (tmp_path / "run.toml").write_text(tomlkit.dumps(values))
    (tmp_path / "login").write_text(TOKEN)  # as `hf auth login` leaves it
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")} | {
        "HF_ENDPOINT": hub[1],
        "HF_TOKEN_PATH": str(tmp_path / "login"),
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_HUB_VERBOSITY": "debug",
        "DORA_STUDIO_HOME": str(tmp_path / "home"),
    }
    command = [sys.executable, "-m", "trainer.cli", "train", str(tmp_path / "run.toml")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    of_the_model = [(path, authorization) for path, authorization in hub[0].asked if "owner/tiny" in path]
    assert {authorization for _, authorization in of_the_model} == {f"Bearer {TOKEN}"}
    fetched = [path for path, _ in of_the_model if "/resolve/" in path]
    assert any(path.endswith("/unet/diffusion_pytorch_model.safetensors") for path in fetched)
    assert not any("/resolve/main/" in path for path in fetched)
    (run,) = (tmp_path / "home" / "runs").glob("2*")
    assert json.loads((run / "environment.json").read_text())["base_model_commit"] == COMMIT
    (exported,) = run.glob("exports/*.safetensors")
    assert inspect_adapter(exported).metadata["dora_studio.base_model_commit"] == COMMIT
    assert "owner/tiny" in (run / "run.toml").read_text()
    kept = [file for file in tmp_path.rglob("*") if file.is_file() and file.name != "login"]
    assert len(kept) > 10
    assert not [file for file in kept if TOKEN.encode() in file.read_bytes()]
    assert TOKEN not in done.stdout + done.stderr
