"""Five hundred damaged bundles: each is refused before it answers anything, and the file is named."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from unit.bundle.made import Made, made

import luban
from luban.errors import CorruptBundle, NotFound
from luban.files import MANIFEST

N_DAMAGED = 500
Damage = Callable[[Path, random.Random], str]


def some_file(folder: Path, chance: random.Random, *, manifest: bool = True) -> Path:
    return chance.choice([file for file in sorted(folder.iterdir()) if manifest or file.name != MANIFEST])


def flip_bit(folder: Path, chance: random.Random) -> str:
    file = some_file(folder, chance)
    data = bytearray(file.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    file.write_bytes(data)
    return file.name


def truncate(folder: Path, chance: random.Random) -> str:
    file = some_file(folder, chance)
    file.write_bytes(file.read_bytes()[: chance.randrange(file.stat().st_size)])
    return file.name


def append(folder: Path, chance: random.Random) -> str:
    file = some_file(folder, chance)
    file.write_bytes(file.read_bytes() + chance.choice([b"\n", b" ", b"\0", chance.randbytes(100)]))
    return file.name


def zero(folder: Path, chance: random.Random) -> str:
    file = some_file(folder, chance)
    data = bytearray(file.read_bytes())
    size = chance.randint(1, min(512, len(data)))
    start = chance.randint(0, len(data) - size)
    if not any(data[start : start + size]):
        data[start] = 1
    else:
        data[start : start + size] = bytes(size)
    file.write_bytes(data)
    return file.name


def remove(folder: Path, chance: random.Random) -> str:
    file = some_file(folder, chance)
    file.unlink()
    return file.name


def add(folder: Path, chance: random.Random) -> str:
    name = chance.choice(["model2.onnx", "notes.txt", ".hidden", "weights.pkl", "more/inside.json", "model.onnx.data"])
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(chance.randbytes(chance.randrange(64)))
    return name


def swap(folder: Path, chance: random.Random) -> str:
    one, other = chance.sample([file for file in sorted(folder.iterdir()) if file.name != MANIFEST], 2)
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    return min(one.name, other.name)


def rename(folder: Path, chance: random.Random) -> str:
    file = some_file(folder, chance, manifest=False)
    file.rename(folder / f"{file.stem}-old{file.suffix}")
    return file.name


def link(folder: Path, chance: random.Random) -> str:
    """The contents are right, but they are somebody else's file, who can change it later."""
    file = some_file(folder, chance, manifest=False)
    outside = folder.parent / "outside"
    shutil.copyfile(file, outside)
    file.unlink()
    file.symlink_to(outside)
    return file.name


DAMAGES: tuple[Damage, ...] = (flip_bit, flip_bit, truncate, append, zero, remove, add, swap, rename, link)


@pytest.fixture
def whole(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(tmp_path_factory, "classify", "onnx")


def test_each_damaged_bundle_is_refused_and_its_file_named(whole: Made, tmp_path: Path) -> None:
    chance = random.Random(13)
    wrong = []
    for number in range(N_DAMAGED):
        damage = DAMAGES[number % len(DAMAGES)]
        folder = tmp_path / str(number)
        shutil.copytree(whole.folder, folder)
        name = damage(folder, chance)
        try:
            luban.load(folder)
            wrong.append(f"{number}: {damage.__name__} of {name} was not seen")
        except (CorruptBundle, NotFound) as error:
            if name not in error.message:
                wrong.append(f"{number}: {damage.__name__} of {name}, told was: {error.message}")
        shutil.rmtree(folder)
        (tmp_path / "outside").unlink(missing_ok=True)
    assert not wrong


def test_the_whole_bundle_is_not_refused(whole: Made, tmp_path: Path) -> None:
    shutil.copytree(whole.folder, tmp_path / "copy")
    assert luban.load(tmp_path / "copy").digest == whole.bundle.digest


def test_a_folder_of_bundle_files_from_two_bundles_is_refused(
    whole: Made, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    """Each file is whole, and together they were never sealed."""
    other = made(tmp_path_factory, "tag", "onnx")
    for name in ("model.onnx", "bundle.json", "calibration.json"):
        folder = tmp_path / name
        shutil.copytree(whole.folder, folder)
        shutil.copyfile(other.folder / name, folder / name)
        if (other.folder / name).read_bytes() != (whole.folder / name).read_bytes():
            with pytest.raises(CorruptBundle, match=name):
                luban.load(folder)
