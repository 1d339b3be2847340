"""Graphs kept ready: the same bits, made once, and used only as they were written, by whom they were written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from unit.bundle.made import Made, texts

from luban import files
from luban.bundle import prepared as kept
from luban.bundle.engine import Engine
from luban.bundle.runtimes.onnx import GRAPH
from luban.bundle.widths import TwoWidths
from luban.errors import CorruptBundle

ROWS = [texts(count, seed=count) for count in (1, 1, 3, 40)]


def bits(engine: Engine) -> list[bytes]:
    return [engine.logits(engine.encode(rows)).tobytes() for rows in ROWS]


def entries(place: Path) -> list[Path]:
    return sorted(path for path in place.iterdir() if path.is_dir())


def test_answers_are_the_same_to_the_bit_and_the_second_opening_makes_nothing(classifier: Made, tmp_path: Path) -> None:
    wanted = bits(Engine.open(classifier.folder, threads=2))
    first = Engine.open(classifier.folder, threads=2, graphs=tmp_path / "graphs")
    (entry,) = entries(tmp_path / "graphs")
    before = (entry / kept.WEIGHTS).stat().st_ino
    second = Engine.open(classifier.folder, threads=2, graphs=tmp_path / "graphs")
    assert isinstance(first.runner, TwoWidths)
    assert (entry / kept.WEIGHTS).stat().st_ino == before
    for engine in (first, second):
        assert [bits(engine) for _ in range(3)] == [wanted] * 3  # whichever width is tried
    alone = Engine.open(classifier.folder, threads=1, graphs=tmp_path / "graphs")
    assert not isinstance(alone.runner, TwoWidths)
    assert bits(alone) == wanted


def test_weights_are_mapped_and_not_copied(classifier: Made, tmp_path: Path) -> None:
    engine = Engine.open(classifier.folder, threads=1, graphs=tmp_path / "graphs")
    engine.predict(ROWS[-1])
    (entry,) = entries(tmp_path / "graphs")
    assert str(entry / kept.WEIGHTS) in Path("/proc/self/maps").read_text()


def test_vectors_have_a_graph_of_their_own_and_the_same_bits(classifier: Made, tmp_path: Path) -> None:
    plain = Engine.open(classifier.folder, threads=2, vectors=True)
    ready = Engine.open(classifier.folder, threads=2, vectors=True, graphs=tmp_path / "graphs")
    Engine.open(classifier.folder, threads=2, graphs=tmp_path / "graphs")
    assert len(entries(tmp_path / "graphs")) == 2
    assert plain.vectors is not None and ready.vectors is not None
    ids, mask = np.array([[2, 5, 4, 3]]), np.ones((1, 4), np.int64)
    assert plain.vectors.run(ids, mask).tobytes() == ready.vectors.run(ids, mask).tobytes()
    assert bits(plain) == bits(ready)


@pytest.mark.parametrize("name", [kept.GRAPH, kept.WEIGHTS, files.MANIFEST])
@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_what_is_damaged_is_made_again(classifier: Made, tmp_path: Path, name: str, harm: str) -> None:
    wanted = bits(Engine.open(classifier.folder, threads=2, graphs=tmp_path / "graphs"))
    (entry,) = entries(tmp_path / "graphs")
    path = entry / name
    whole = path.read_bytes()
    if harm == "remove":
        path.unlink()
    elif harm == "cut":
        path.write_bytes(whole[:-1])
    else:
        path.write_bytes(whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :])
    assert bits(Engine.open(classifier.folder, threads=2, graphs=tmp_path / "graphs")) == wanted
    (again,) = entries(tmp_path / "graphs")
    assert files.verify(again)["files"].keys() == {kept.GRAPH, kept.WEIGHTS}


@pytest.mark.parametrize("loose", ["place", "entry", "weights"])
def test_what_others_could_have_written_is_not_used(classifier: Made, tmp_path: Path, loose: str) -> None:
    place = tmp_path / "graphs"
    wanted = bits(Engine.open(classifier.folder, threads=2, graphs=place))
    (entry,) = entries(place)
    # A graph with other weights, whole by its own manifest: only who could write it tells it from a good one.
    weights = bytearray((entry / kept.WEIGHTS).read_bytes())
    weights[: len(weights) // 2] = bytes(len(weights) // 2)
    (entry / kept.WEIGHTS).write_bytes(weights)
    facts = json.loads((entry / files.MANIFEST).read_text())["of"]
    (entry / files.MANIFEST).unlink()
    files.seal(entry, {"of": facts})
    changed = bits(Engine.open(classifier.folder, threads=2, graphs=place))
    assert changed != wanted
    path = {"place": place, "entry": entry, "weights": entry / kept.WEIGHTS}[loose]
    path.chmod(0o777)
    assert bits(Engine.open(classifier.folder, threads=2, graphs=place)) == wanted


def test_an_entry_of_another_graph_is_not_used(classifier: Made, tagger: Made, tmp_path: Path) -> None:
    place = tmp_path / "graphs"
    wanted = bits(Engine.open(classifier.folder, threads=2, graphs=place))
    (mine,) = entries(place)
    Engine.open(tagger.folder, threads=2, graphs=place)
    (other,) = set(entries(place)) - {mine}
    shutil.rmtree(mine)
    shutil.copytree(other, mine)
    assert bits(Engine.open(classifier.folder, threads=2, graphs=place)) == wanted


def test_a_damaged_bundle_leaves_nothing_behind(classifier: Made, tmp_path: Path) -> None:
    bad = Path(shutil.copytree(classifier.folder, tmp_path / "bad"))
    data = bytearray((bad / GRAPH).read_bytes())
    data[len(data) // 2] ^= 1
    (bad / GRAPH).write_bytes(data)
    with pytest.raises(CorruptBundle, match=r"model\.onnx was changed"):
        Engine.open(bad, threads=2, graphs=tmp_path / "graphs")
    assert entries(tmp_path / "graphs") == []
    Engine.open(classifier.folder, threads=2, graphs=tmp_path / "graphs")
    with pytest.raises(CorruptBundle, match=r"model\.onnx was changed"):  # though its good twin is kept ready
        Engine.open(bad, threads=2, graphs=tmp_path / "graphs")


def test_where_nothing_can_be_kept_the_graph_is_opened_as_it_is(classifier: Made, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    engine = Engine.open(classifier.folder, threads=2, graphs=tmp_path / "file" / "graphs")
    assert not isinstance(engine.runner, TwoWidths)
    assert bits(engine) == bits(Engine.open(classifier.folder, threads=2))


def test_what_killed_writers_and_other_runtimes_left_goes_and_what_is_in_use_stays(
    classifier: Made, tagger: Made, tmp_path: Path
) -> None:
    place = tmp_path / "graphs"
    Engine.open(classifier.folder, threads=1, graphs=place)
    (mine,) = entries(place)
    (place / ".aside-half-0123abcd").mkdir()
    for name, change in (("older", {"onnxruntime": "1.0"}), ("elsewhere", {"cpu": {"machine": "other"}})):
        stale = Path(shutil.copytree(mine, place / name))
        facts = json.loads((stale / files.MANIFEST).read_text())["of"]
        (stale / files.MANIFEST).unlink()
        files.seal(stale, {"of": {**facts, **change}})
    unused = Path(shutil.copytree(mine, place / "unused"))
    os.utime(unused, (0, 0))
    engine = Engine.open(tagger.folder, threads=1, graphs=place)  # making one tidies
    assert mine in entries(place) and len(entries(place)) == 2
    shutil.rmtree(place)
    assert len(engine.predict(["who"])) == 1  # what is mapped stays


def test_two_processes_make_it_once(classifier: Made, tmp_path: Path) -> None:
    place = tmp_path / "graphs"
    code = (
        "import sys; from pathlib import Path; from luban.bundle.engine import Engine\n"
        "from luban.bundle import prepared\n"
        "made = []; inner = prepared._check_same\n"
        "prepared._check_same = lambda *given: (made.append(1), inner(*given))\n"
        "Engine.open(Path(sys.argv[1]), threads=1, graphs=Path(sys.argv[2])); print(len(made))"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code, classifier.folder, place], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert sorted(process.communicate(timeout=60)[0].strip() for process in running) == ["0", "1"]


def test_facts_tell_cpus_apart(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text(
        "processor\t: 0\nmodel name\t: A\nflags\t\t: avx2\ncpu MHz\t: 1\n\nprocessor\t: 1\nmodel name\t: B\n"
    )
    first = kept._cpu(info)
    assert first == {"machine": os.uname().machine, "model name": "A", "flags": "avx2"}
    info.write_text(info.read_text().replace("avx2", "avx512f"))
    assert kept._cpu(info) != first


def test_place() -> None:
    assert kept.place("none") is None
    assert kept.place("/somewhere") == Path("/somewhere")
    assert kept.place(None) == Path(os.environ.get("LUBAN_HOME") or "~/.cache/luban").expanduser() / "graphs"
