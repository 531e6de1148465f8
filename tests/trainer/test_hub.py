"""Base models that the hub does not give: each with its reason and its fix, by a hub of our own on this computer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOKEN = "hf_AbCdEfGhIjKlMnOpQrStUvWx"
# Answers as the hub gives them, by the model that is asked for: status, X-Error-Code, X-Error-Message.
SCRIPT = """
import http.server, json, os, sys, threading
ANSWERS = {
    "missing": (404, "RepoNotFound", "Repository not found"),
    "gated": (403, "GatedRepo", "Access to model owner/gated is restricted"),
    "private": (401, "", "Invalid credentials in Authorization header"),
    "broken": (502, "", "Bad gateway"),
}
seen = []
class Hub(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        seen.append(self.headers.get("Authorization"))
        status, code, message = ANSWERS.get(self.path.split("/")[-1], (0, "", ""))
        if not status:
            return self.connection.close()
        self.send_response(status)
        for name, value in {"X-Error-Code": code, "X-Error-Message": message, "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()
    do_HEAD = do_GET
    def log_message(self, *arguments): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}"
from trainer.components import load_components
from trainer.config_sections import ModelConfig
from trainer.failures import classify
told = {}
for name in (*ANSWERS, "hangs-up", "gone"):
    if name == "gone":
        server.shutdown()
        server.server_close()
    try:
        load_components(ModelConfig(base=f"owner/{name}"))
    except Exception as error:
        told[name] = vars(classify(error))
json.dump({"told": told, "was_sent": os.environ["HF_TOKEN"] in str(seen)}, open(sys.argv[1], "w"))
"""


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, dict[str, str]], str]:
    """What is told of each model, and everything that was printed on the way."""
    folder = tmp_path_factory.mktemp("hub")
    environment = os.environ | {"HF_TOKEN": TOKEN, "HF_HUB_CACHE": str(folder), "HF_HUB_VERBOSITY": "debug"}
    command = [sys.executable, "-c", SCRIPT, str(folder / "told.json")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads((folder / "told.json").read_text())
    assert result["was_sent"]  # else it could not leak
    return result["told"], done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "category", "sentence", "fix"),
    [
        ("missing", "no access", "knows no model of that name", "spelling of model.base"),
        ("gated", "no access", "accept its terms", "Accept them in the browser"),
        ("private", "no access", "refused the access token", "hf auth login"),
        ("broken", "no network", "cannot be reached", "Connect to the network"),
        ("hangs-up", "no network", "cannot be reached", "Connect to the network"),
        ("gone", "no network", "cannot be reached", "set model.base to a folder or file"),
    ],
)
def test_a_model_that_the_hub_does_not_give_is_told_with_the_reason(
    asked: tuple[dict[str, dict[str, str]], str], name: str, category: str, sentence: str, fix: str
) -> None:
    told = asked[0][name]
    assert told["category"] == category
    assert told["sentence"].startswith(f"The base model 'owner/{name}' could not be fetched. ")
    assert sentence in told["sentence"]
    assert fix in told["fix"]


def test_the_access_token_is_in_nothing_that_is_told_or_printed(
    asked: tuple[dict[str, dict[str, str]], str],
) -> None:
    told, printed = asked
    assert TOKEN not in json.dumps(told)
    assert TOKEN not in printed
