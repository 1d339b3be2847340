"""The processor: windows hold what the base's own tokeniser says, and nothing of a long row is lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from luban.errors import CorruptBundle
from luban.models.facts import BaseFolder
from luban.models.processor import Processor, ProcessorSettings
from luban.records import Encoded

TEXTS = [
    "My card hasn't arrived, why?",
    "我的卡还没到，怎么办",
    "Ｆｕｌｌ width 与 English mixed",
    "a",
    "",
    "  ",
    "🙂 naïve café",
]


def make(base: BaseFolder, **given: Any) -> Processor:
    chosen = ProcessorSettings(**{"max_length": 64, "prefix": base.facts.prefix, **given})
    return Processor(chosen, (base.folder / "tokenizer.json").read_text("utf-8"))


def windows(encoded: Encoded) -> list[list[int]]:
    return [encoded.ids[a:b].tolist() for a, b in zip(encoded.offsets[:-1], encoded.offsets[1:], strict=True)]


@pytest.fixture(params=["minilm", "e5"])
def base(request: pytest.FixtureRequest) -> BaseFolder:
    found: BaseFolder = request.getfixturevalue(request.param)
    return found


def test_texts_are_tokenised_as_the_base_does(base: BaseFolder) -> None:
    tokenizer = Tokenizer.from_file(str(base.folder / "tokenizer.json"))
    tokenizer.no_padding(), tokenizer.no_truncation()
    texts = [text for text in TEXTS if text.strip()]
    wanted = [tokenizer.encode(base.facts.prefix + text).ids for text in texts]
    assert windows(make(base).encode_texts(texts)) == wanted


def test_empty_texts_still_have_a_window(base: BaseFolder) -> None:
    encoded = make(base).encode_texts(["", "  ", "a"])
    assert encoded.rows.tolist() == [0, 1, 2]
    assert encoded.lengths.min() >= 2


def test_a_special_token_in_a_text_is_text(base: BaseFolder) -> None:
    processor = make(base)
    plain = processor.encode_texts(["a"])
    ends = {int(plain.ids[0]), int(plain.ids[-1])}
    for text in ("[SEP] hello [CLS]", "</s> hello <s>"):
        inside = processor.encode_texts([text]).ids[1:-1]
        assert not ends & set(inside.tolist())


@pytest.mark.parametrize(("how", "n_windows"), [("truncate", 1), ("head_tail", 1), ("chunk", 3)])
def test_long_texts(base: BaseFolder, how: str, n_windows: int) -> None:
    text = " ".join(f"word{number}" for number in range(60))
    whole = windows(make(base, max_length=512).encode_texts([text]))[0]
    processor = make(base, max_length=64, long_text=how, stride=8)
    found = processor.encode_texts([text, "short"])
    assert found.lengths.max() <= 64
    head = len(processor.encode_texts([""]).ids) - 1
    body = [window[head:-1] for window in windows(found)[:-1]]
    assert found.rows.tolist() == [0] * len(body) + [1]
    inner = whole[head:-1]
    if how == "chunk":
        assert len(body) >= n_windows
        joined = body[0] + [token for part in body[1:] for token in part[8:]]
        assert joined == inner
    else:
        assert len(body) == n_windows
        kept = 64 - head - 1
        tail = kept // 2 if how == "head_tail" else 0
        assert body[0] == inner[: kept - tail] + (inner[-tail:] if tail else [])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.lists(st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=9), max_size=30), max_size=4
    )
)
def test_every_unit_begins_somewhere(tiny: BaseFolder, rows: list[list[str]]) -> None:
    processor = make(tiny, max_length=16)
    encoded = processor.encode_units(rows, [[True] * len(row) for row in rows])
    assert encoded.units is not None
    owners = np.repeat(encoded.rows, encoded.lengths)
    for number, row in enumerate(rows):
        found = encoded.units[(owners == number) & (encoded.units >= 0)]
        assert set(found.tolist()) == set(range(len(row)))
    assert encoded.lengths.max(initial=0) <= 16


def test_characters_are_pieces_of_their_own(e5: BaseFolder) -> None:
    """A Chinese character gets the piece that it is inside a word, with no mark of a word's beginning before it."""
    processor = make(e5)
    text = "上海银行"
    encoded = processor.encode_units([list(text)], [[True, False, False, False]])
    tokenizer = Tokenizer.from_file(str(e5.folder / "tokenizer.json"))
    assert encoded.units is not None
    first = [
        tokenizer.id_to_token(int(token)) for token, unit in zip(encoded.ids, encoded.units, strict=True) if unit >= 0
    ]
    assert first[1:] == ["海", "银", "行"]


def test_it_comes_back_from_a_folder(base: BaseFolder, tmp_path: Path) -> None:
    processor = make(base, clean=("unicode", "whitespace"), long_text="chunk", stride=4)
    processor.to_dir(tmp_path)
    again = Processor.from_dir(tmp_path)
    assert again.settings == processor.settings
    assert windows(again.encode_texts(TEXTS)) == windows(processor.encode_texts(TEXTS))
    written, read = (folder / "tokenizer.json" for folder in (tmp_path, base.folder))
    assert json.loads(written.read_text("utf-8")) == json.loads(read.read_text("utf-8"))
    assert written.stat().st_size <= read.stat().st_size


def test_a_damaged_folder_is_named(base: BaseFolder, tmp_path: Path) -> None:
    make(base).to_dir(tmp_path)
    (tmp_path / "processor.json").write_text('{"max_length": 12}')
    with pytest.raises(CorruptBundle, match=r"processor\.json"):
        Processor.from_dir(tmp_path)


def test_a_window_without_room_is_refused(base: BaseFolder) -> None:
    with pytest.raises(ValueError, match="no room for text"):
        make(base, max_length=2)
