"""A server whose registry has keys: every route asks for one, and a revoked one is refused within five seconds."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import pytest
import serving
from unit.bundle.made import made

from luban.stages import access

BODY = {"text": "where is my card"}


def test_only_who_has_a_key_is_answered(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = made(tmp_path_factory, "classify", "onnx").folder
    place = str(tmp_path / "registry")
    keys = {
        name: access.create_key(name, [scope], models=models, registry=place, who="ann").secret
        for name, scope, models in (("shop", "predict", []), ("desk", "read", []), ("other", "predict", ["none-*"]))
    }
    with (
        serving.served(str(folder), "--registry", place) as server,
        httpx.Client(base_url=f"http://127.0.0.1:{server.port}", trust_env=False) as client,
    ):

        def ask(key: str = "") -> int:
            headers = {"authorization": f"Bearer {key}"} if key else {}
            return client.post("/v1/models/made/predict", json=BODY, headers=headers).status_code

        assert [ask(), ask("wrong"), ask(keys["shop"][:-1] + "?")] == [401] * 3
        assert [ask(keys[name]) for name in ("shop", "desk", "other")] == [200, 403, 403]
        assert client.get("/v1/models").status_code == 401
        assert client.get("/v1/models", headers={"x-api-key": keys["desk"]}).status_code == 200
        revoked = time.monotonic()
        access.revoke_key("shop", registry=place, who="ann")
        while (status := ask(keys["shop"])) == 200 and time.monotonic() - revoked < 10:
            pass
        assert status == 401 and time.monotonic() - revoked < 5
    logged = str(server.events)
    assert "a key was refused" in logged and keys["shop"][6:22] in logged
    assert not [secret for secret in keys.values() if secret[-43:] in logged]


def test_the_first_key_closes_a_server_that_runs_and_the_last_one_does_not_open_it(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = made(tmp_path_factory, "classify", "onnx").folder
    place = str(tmp_path / "registry")
    with (
        serving.served(str(folder), "--registry", place) as server,
        httpx.Client(base_url=f"http://127.0.0.1:{server.port}", trust_env=False) as client,
    ):
        assert client.post("/v1/models/made/predict", json=BODY).status_code == 200
        secret = access.create_key("shop", ["predict"], registry=place, who="ann").secret
        begun = time.monotonic()
        while (status := client.post("/v1/models/made/predict", json=BODY).status_code) == 200:
            assert time.monotonic() - begun < 5
        assert status == 401
        headers = {"authorization": f"Bearer {secret}"}
        assert client.post("/v1/models/made/predict", json=BODY, headers=headers).status_code == 200
        access.revoke_key("shop", registry=place, who="ann")
        begun = time.monotonic()
        while client.post("/v1/models/made/predict", json=BODY, headers=headers).status_code == 200:
            assert time.monotonic() - begun < 5
        for _ in range(30):  # without its last key it stays closed
            for sent in ({}, headers, {"x-api-key": "made up"}):
                assert client.post("/v1/models/made/predict", json=BODY, headers=sent).status_code == 401
