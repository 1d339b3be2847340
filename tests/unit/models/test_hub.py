"""Bases from hubs: one commit, safe formats alone, resumed, checked, and usable without the network afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from luban.errors import Conflict, LubanError, ProjectError
from luban.models.base import BaseFolder, find
from luban.models.facts import KEPT

if TYPE_CHECKING:
    from tests.unit.models.conftest import Hub

CARD = b"---\nlicense: apache-2.0\nlanguage:\n- en\n- no\n---\n# A base\n"


@pytest.fixture
def parts(tiny: BaseFolder) -> dict[str, bytes]:
    """Return the files of a repository: a base, and things that must never be fetched."""
    names = ("config.json", "tokenizer.json", "model.safetensors")
    kept = {name: (tiny.folder / name).read_bytes() for name in names}
    never = {
        "pytorch_model.bin": b"\x80\x04pickle",
        "modeling.py": b"import os",
        "onnx/model.onnx": b"graph",
        ".gitattributes": b"",
    }
    return {**kept, **never, "README.md": CARD}


@pytest.mark.parametrize("prefix", ["hf:", "ms:", ""])
def test_base_from_hub(hub: Hub, parts: dict[str, bytes], tmp_path: Path, tiny: BaseFolder, prefix: str) -> None:
    commit = hub.repository("team/small").commit(parts, "main", "master")
    told: list[Any] = []
    found = find(f"{prefix}team/small", tmp_path, on_progress=told.append)
    assert found.facts.revision == commit
    assert found.facts.digest == tiny.facts.digest
    assert (found.facts.licence, found.facts.languages) == ("apache-2.0", ("en", "no"))
    assert found.facts.name == f"{prefix or 'hf:'}team/small"
    names = {path.relative_to(found.folder).as_posix() for path in found.folder.rglob("*") if path.is_file()}
    assert names == {"README.md", "config.json", "manifest.json", "model.safetensors", "tokenizer.json"}
    assert not [
        path for _, path, _ in hub.asked if "/resolve/" in path and not KEPT.fullmatch(path.split(f"{commit}/")[-1])
    ]
    size = sum(len(data) for name, data in parts.items() if name in names)
    assert max(progress.done for progress in told if progress.unit == "bytes") == size


@pytest.mark.parametrize("kind", ["hf", "ms"])
def test_pinned_commit_outlives_branch_and_hub(hub: Hub, parts: dict[str, bytes], tmp_path: Path, kind: str) -> None:
    old = hub.repository("team/small").commit(parts, "main", "master")
    first = find(f"{kind}:team/small", tmp_path)
    new = hub.repository("team/small").commit({**parts, "README.md": b"# new"}, "main", "master")
    assert find(f"{kind}:team/small", tmp_path).facts.revision == new
    hub.asked.clear()
    hub.down = True
    assert find(f"{kind}:team/small", tmp_path, revision=first.facts.revision) == first
    assert first.facts.revision == old
    assert hub.asked == []


@pytest.mark.parametrize("kind", ["hf", "ms"])
def test_hub_down_uses_what_the_branch_meant_before(
    hub: Hub, parts: dict[str, bytes], tmp_path: Path, kind: str
) -> None:
    hub.repository("team/small").commit(parts, "main", "master")
    before = find(f"{kind}:team/small", tmp_path)
    hub.down = True
    told: list[Any] = []
    assert find(f"{kind}:team/small", tmp_path, on_progress=told.append) == before
    assert "can't be reached" in told[-1].message
    with pytest.raises(LubanError, match=r"team/other.*\n  fix: check the network"):
        find(f"{kind}:team/other", tmp_path)
    with pytest.raises(LubanError, match="team/small"):
        find(f"{kind}:team/small@v2", tmp_path)


@pytest.mark.parametrize("kind", ["hf", "ms"])
def test_no_such_repository_or_revision(hub: Hub, parts: dict[str, bytes], tmp_path: Path, kind: str) -> None:
    hub.repository("team/small").commit(parts, "main", "master")
    with pytest.raises(ProjectError, match=f"{kind}:team/nothing.*spelling"):
        find(f"{kind}:team/nothing", tmp_path)
    with pytest.raises(ProjectError, match=f"{kind}:team/small@v9"):
        find(f"{kind}:team/small@v9", tmp_path)


@pytest.mark.parametrize("kind", ["hf", "ms"])
def test_tags_and_commits(hub: Hub, parts: dict[str, bytes], tmp_path: Path, kind: str) -> None:
    repository = hub.repository("team/small")
    old = repository.commit(parts, "v1.0")
    new = repository.commit({**parts, "README.md": b"# new"}, "main", "master")
    assert find(f"{kind}:team/small@v1.0", tmp_path).facts.revision == old
    assert find(f"{kind}:team/small@{new}", tmp_path).facts.revision == new
    with pytest.raises(Conflict, match="locked to"):
        find(f"{kind}:team/small@{new}", tmp_path, revision=old)


@pytest.mark.parametrize("kind", ["hf", "ms"])
def test_broken_connection_is_resumed(hub: Hub, parts: dict[str, bytes], tmp_path: Path, kind: str) -> None:
    hub.repository("team/small").commit(parts, "main", "master")
    hub.cuts["model.safetensors"] = [100_000, 50_000]
    assert find(f"{kind}:team/small", tmp_path).facts.parameters
    assert hub.downloads("model.safetensors") == ["", "bytes=100000-", "bytes=150000-"]


def test_modelscope_goes_on_after_giving_up(
    hub: Hub, parts: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("luban.models.modelscope.time.sleep", lambda seconds: None)
    hub.repository("team/small").commit(parts, "master")
    hub.cuts["model.safetensors"] = [70_000, *[0] * 10]
    with pytest.raises(LubanError, match=r"model\.safetensors of ms:team/small.*\n.*goes on where it stopped"):
        find("ms:team/small", tmp_path)
    hub.cuts.clear()
    hub.asked.clear()
    find("ms:team/small", tmp_path)
    assert hub.downloads("model.safetensors") == ["bytes=70000-"]


@pytest.mark.parametrize("kind", ["hf", "ms"])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_damaged_download_is_refused_and_fetched_anew(
    hub: Hub, parts: dict[str, bytes], tmp_path: Path, kind: str, name: str
) -> None:
    hub.repository("team/small").commit(parts, "main", "master")
    hub.damaged = {name}
    with pytest.raises(LubanError, match=f"{name} of {kind}:team/small.*wanted"):
        find(f"{kind}:team/small", tmp_path)
    assert not list((tmp_path / "home" / "bases").glob(f"{kind}--*/config.json"))
    hub.damaged = set()
    assert find(f"{kind}:team/small", tmp_path).facts.parameters


@pytest.mark.parametrize("kind", ["hf", "ms"])
def test_everything_that_is_missing_is_named_before_any_download(
    hub: Hub, parts: dict[str, bytes], tmp_path: Path, kind: str
) -> None:
    hub.repository("team/old").commit({"pytorch_model.bin": b"\x80", "vocab.txt": b"a"}, "main", "master")
    with pytest.raises(ProjectError) as caught:
        find(f"{kind}:team/old", tmp_path)
    assert {problem.where for problem in caught.value.problems} == {
        "model.safetensors",
        "config.json",
        "tokenizer.json",
    }
    assert "pytorch_model.bin" in str(caught.value) and "save_pretrained" in str(caught.value)
    assert not hub.downloads("pytorch_model.bin")


def test_modelscope_branch_without_commit_is_pinned_by_contents(
    hub: Hub, parts: dict[str, bytes], tmp_path: Path
) -> None:
    hub.tells_commit = False
    hub.repository("team/small").commit(parts, "master")
    first = find("ms:team/small", tmp_path)
    assert first.facts.revision.startswith("master#")
    hub.repository("team/small").commit({**parts, "README.md": b"# new"}, "master")
    assert find("ms:team/small", tmp_path, revision=first.facts.revision) == first
    for kept in first.folder.iterdir():
        kept.unlink()
    with pytest.raises(Conflict, match="changed since"):
        find("ms:team/small", tmp_path, revision=first.facts.revision)


def test_damage_in_the_cache_is_fetched_anew(hub: Hub, parts: dict[str, bytes], tmp_path: Path) -> None:
    hub.repository("team/small").commit(parts, "master")
    first = find("ms:team/small", tmp_path)
    (first.folder / "manifest.json").write_text("{}")
    assert find("ms:team/small", tmp_path) == first
    assert len(hub.downloads("model.safetensors")) == 2


def test_endpoint_must_be_http(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "file:///etc")
    with pytest.raises(LubanError, match=r"file:///etc.*wanted an http"):
        find("ms:team/small", tmp_path)
