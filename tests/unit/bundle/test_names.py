"""A bundle that tags names as a recogniser: places in the text as it was given, labels that count."""

from __future__ import annotations

import pytest

from luban.bundle.engine import Engine
from luban.bundle.names import MEANS, NameFinder
from luban.data.mask import Masker
from luban.data.personal import KINDS
from luban.errors import BadRequest

from .made import Made, made, texts


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(tmp_path_factory, "tag", "onnx")


def test_what_is_known_of_labels_are_kinds() -> None:
    assert set(MEANS.values()) <= set(KINDS) and all(label == label.lower() for label in MEANS)


def test_what_the_engine_tags_is_found_at_its_place_though_the_text_is_long_or_has_what_cleaning_takes_out(
    tagger: Made,
) -> None:
    engine = Engine.open(tagger.folder)
    finder = NameFinder(engine)
    assert finder.means == {"person": "name", "地点": "address"}
    rows = [*texts(300, seed=3), " ".join(texts(30, seed=4)), "my\u0000 card\u0007 北京 late", "", "12-34", " \n"]
    found = finder(rows)
    wanted = engine.predict(rows)
    assert len(found) == len(rows) and sum(map(len, found)) > 100
    for row, some, answer in zip(rows, found, wanted, strict=True):
        if any(map(str.isalpha, row)):
            assert [(one.kind, one.start, one.end) for one in some] == [
                (finder.means[span.label], span.start, span.end) for span in answer.spans
            ]
        else:
            assert some == []
    assert max(one.end for one in found[300]) > 3 * len("my card late"), "windows after the first are read too"


def test_only_labels_that_are_named_count_and_as_what_they_are_named(tagger: Made) -> None:
    rows = texts(50, seed=5)
    both, one = NameFinder.open(tagger.folder)(rows), NameFinder.open(tagger.folder, {"地点": "name"})(rows)
    for some, fewer in zip(both, one, strict=True):
        assert [(part.start, part.end) for part in some if part.kind == "address"] == [
            (part.start, part.end) for part in fewer
        ]
        assert all(part.kind == "name" for part in fewer)


@pytest.mark.parametrize(("labels", "told"), [({"persn": "name"}, "no label 'persn'"), ({"person": "nme"}, "no kind")])
def test_a_label_or_kind_that_is_not_there_is_refused(tagger: Made, labels: dict[str, str], told: str) -> None:
    with pytest.raises(BadRequest, match=told) as found:
        NameFinder.open(tagger.folder, labels)
    assert "did you mean" in found.value.hint


def test_a_masker_with_it_leaves_nothing_that_it_found(tagger: Made) -> None:
    finder = NameFinder.open(tagger.folder)
    rows = [f"{text} 13912345678" for text in texts(40, seed=6)]
    done = Masker(finders=[finder]).mask_all(rows)
    for text, masked, some in zip(rows, done, finder(rows), strict=True):
        hidden = {at for one in masked.found for at in range(one.start, one.end)}
        assert {at for one in some for at in range(one.start, one.end)} <= hidden
        assert "13912345678" not in masked.text and text.endswith("13912345678")
