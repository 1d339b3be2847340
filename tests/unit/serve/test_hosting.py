"""Several models in a process: opened, swapped under load, put away; and what can't be opened."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

import pytest
import serving
from unit.bundle.made import Made

from luban.bundle.engine import Engine
from luban.errors import CorruptBundle, DeadlineExceeded, NotFound, Unavailable
from luban.serve.batch import Batcher
from luban.serve.hosting import Answer, Hosting
from luban.serve.sources import Found, FromFolder, Source
from luban.serve.telemetry import Telemetry


class Versions:
    """An alias that is moved by hand."""

    def __init__(self, *folders: Path) -> None:
        self.folders = folders
        self.now = 0
        self.n_asked = 0

    def newest(self) -> Found:
        self.n_asked += 1
        folder = self.folders[self.now]
        return Found(key=str(self.now), folder=lambda: folder, number=self.now + 1)

    def close(self) -> None:
        return None


@pytest.fixture(scope="module")
def folders(classify: Made, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return two bundles whose probabilities differ, and one that is damaged."""
    place = tmp_path_factory.mktemp("versions")
    other = serving.another(classify.folder, place / "other", 4.0)
    bad = Path(shutil.copytree(classify.folder, place / "bad"))
    (bad / "model.onnx").write_bytes((bad / "model.onnx").read_bytes()[:-1] + b"!")
    return [classify.folder, other, bad]


@pytest.fixture
def batcher() -> Iterator[Batcher]:
    batcher = Batcher(runners=2)
    yield batcher
    batcher.close()


def hosting(batcher: Batcher, sources: dict[str, Source], **given: Any) -> Hosting:
    return Hosting(sources, batcher, Telemetry(), threads=1, poll_s=3600.0, **given)


def run(main: Awaitable[Any]) -> Any:
    async def within() -> Any:
        return await asyncio.wait_for(main, 60)

    return asyncio.run(within())


def soon(seconds: float = 30.0) -> float:
    return time.monotonic() + seconds


def test_every_answer_under_swaps_is_one_version_s(batcher: Batcher, folders: list[Path]) -> None:
    text = "where is my new card"
    wanted = [Engine.open(folder, threads=1).predict([text])[0].score for folder in folders[:2]]
    assert wanted[0] != pytest.approx(wanted[1], abs=1e-3)
    source = Versions(*folders)

    async def main() -> list[Answer]:
        host = hosting(batcher, {"bank": source})
        await host.start()
        answers: list[Answer] = []
        done = asyncio.Event()

        async def client() -> None:
            while not done.is_set():
                answers.append(await host.predict("bank", [text] * 2, soon()))

        clients = [asyncio.create_task(client()) for _ in range(8)]
        for turn in range(1, 7):
            source.now = turn % 2
            await host.refresh()
        done.set()
        await asyncio.gather(*clients)
        await host.close()
        return answers

    answers = run(main())
    assert {answer.served.number for answer in answers} == {1, 2}
    for answer in answers:
        assert answer.served.number is not None
        right = wanted[answer.served.number - 1]
        assert [one.score for one in answer.predictions] == pytest.approx([right, right], abs=1e-5)


def test_a_version_that_can_t_be_opened_leaves_the_old_one(batcher: Batcher, folders: list[Path]) -> None:
    source = Versions(*folders)

    async def main() -> None:
        host = hosting(batcher, {"bank": source})
        await host.start()
        source.now = 2
        await host.refresh()
        model = host.model("bank")
        assert "model.onnx" in model.problem
        assert (await host.predict("bank", ["a"], soon())).served.number == 1
        served = model.served
        await host.refresh()
        assert model.served is served
        source.now = 1
        await host.refresh()
        assert model.problem == "" and (await host.predict("bank", ["a"], soon())).served.number == 2
        await host.close()

    run(main())


def test_a_registry_that_is_away_leaves_all_as_it_is(batcher: Batcher, folders: list[Path]) -> None:
    class Away(Versions):
        def newest(self) -> Found:
            if self.now:
                raise ConnectionError("the database is away")
            return super().newest()

    source = Away(*folders)

    async def main() -> None:
        host = hosting(batcher, {"bank": source})
        await host.start()
        source.now = 1
        await host.refresh()
        assert "away" in host.model("bank").problem
        assert (await host.predict("bank", ["a"], soon())).served.number == 1
        source.now = 0
        await host.refresh()
        assert host.model("bank").problem == ""
        await host.close()

    run(main())


def test_what_can_t_be_opened_at_first_is_said_at_once(batcher: Batcher, folders: list[Path]) -> None:
    with pytest.raises(CorruptBundle, match=r"model\.onnx"):
        run(hosting(batcher, {"bank": FromFolder(folders[2])}).start())
    with pytest.raises(NotFound, match="no bundle"):
        run(hosting(batcher, {"bank": FromFolder(folders[2] / "nowhere")}).start())


def test_memory_is_kept_and_what_was_asked_longest_ago_goes(batcher: Batcher, folders: list[Path]) -> None:
    size = sum(path.stat().st_size for path in folders[0].iterdir())
    sources: dict[str, Source] = {name: Versions(folders[0]) for name in "abc"}

    async def main() -> None:
        host = hosting(batcher, sources, memory_bytes=int(2.5 * size))
        await host.start()

        def there() -> str:
            return "".join(model.name for model in host.models if model.served)

        assert there() == "ab", "the third waits until it is asked"
        await host.predict("b", ["x"], soon())
        await host.predict("a", ["x"], soon())
        await host.predict("c", ["x"], soon())
        assert there() == "ac"
        await host.predict("b", ["x"], soon())
        assert there() == "bc"
        for model in host.models:
            model.n_inside += 1
        with pytest.raises(Unavailable, match="no memory"):
            await host.predict("a", ["x"], soon())
        assert there() == "bc", "what answers is not put away"
        for model in host.models:
            model.n_inside -= 1
        answers = await asyncio.gather(*(host.predict(name, ["x"], soon()) for name in "bb"))
        assert len({answer.served for answer in answers}) == 1
        await host.close()

    run(main())


def test_a_model_that_opens_slowly_is_opened_once(batcher: Batcher, folders: list[Path]) -> None:
    size = sum(path.stat().st_size for path in folders[0].iterdir())
    lazy = Versions(folders[0])
    sources: dict[str, Source] = {"a": Versions(folders[0]), "b": lazy}

    async def main() -> None:
        host = hosting(batcher, sources, memory_bytes=int(1.5 * size))
        await host.start()
        asked = lazy.n_asked
        with pytest.raises(DeadlineExceeded, match="not opened in time"):
            await host.predict("b", ["x"], soon(0.0))
        answers = await asyncio.gather(*(host.predict("b", ["x"], soon()) for _ in range(5)))
        assert len({answer.served for answer in answers}) == 1
        assert lazy.n_asked - asked <= 2
        await host.close()

    run(main())


def test_an_unknown_name_says_which_there_are(batcher: Batcher, folders: list[Path]) -> None:
    host = hosting(batcher, {"bank": FromFolder(folders[0])})
    with pytest.raises(NotFound, match="served here") as refused:
        host.model("bnak")
    assert "did you mean 'bank'" in refused.value.hint


def test_a_folder_that_is_replaced_is_a_new_version(folders: list[Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders[0], tmp_path / "bundle"))
    source = FromFolder(folder)
    before = source.newest().key
    assert source.newest().key == before
    shutil.rmtree(folder)
    shutil.copytree(folders[1], folder)
    assert source.newest().key != before
