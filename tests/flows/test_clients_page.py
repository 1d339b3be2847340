"""What the page on clients shows is run, in both languages, against a server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from serving import Server, served
from unit.bundle.made import made

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("clients.md", "clients.zh-CN.md")
FENCE = re.compile(r"^```(python|sh)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def snippets() -> list[tuple[str, str, str]]:
    return [
        (page, *found) for page in PAGES for found in FENCE.findall((ROOT / "docs/how-to" / page).read_text("utf-8"))
    ]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = made(tmp_path_factory, "classify", "onnx").folder
    with served(f"bank-intents={folder}", "--grpc-port", "0", "--embeddings", "--request-s", "30") as found:
        yield found


def test_both_pages_show_the_same_kinds() -> None:
    kinds = [[kind for page, kind, _ in snippets() if page == one] for one in PAGES]
    assert kinds[0] == kinds[1] and kinds[0].count("python") == 5 and kinds[0].count("sh") == 2


@pytest.mark.parametrize(("page", "kind", "text"), snippets(), ids=lambda one: one.splitlines()[0][:30])
def test_it_runs(server: Server, page: str, kind: str, text: str) -> None:
    text = text.replace("127.0.0.1:8080", urlsplit(server.url).netloc).replace("127.0.0.1:8081", server.grpc)
    command = [sys.executable, "-c", text] if kind == "python" else ["bash", "-ec", text]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, "LUBAN_KEY": ""})
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() or "/ping" in text
