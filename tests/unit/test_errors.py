"""The exception tree, its codes and its messages."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import pytest

from luban import errors
from luban.errors import CODES, DataError, LubanError, NotFound, Problem, ProjectError, UnknownPlugin, codes, install


def tree(kind: type[LubanError] = LubanError) -> Iterator[type[LubanError]]:
    yield kind
    for inner in kind.__subclasses__():
        yield from tree(inner)


PUBLIC = [kind for kind in tree() if not kind.__name__.startswith("_")]


@pytest.mark.parametrize("kind", PUBLIC, ids=lambda kind: kind.__name__)
def test_every_error_has_codes(kind: type[LubanError]) -> None:
    found = codes(kind)
    assert 1 <= found.exit <= 8
    assert 400 <= found.http <= 504
    assert found.grpc.isupper()
    assert found.exit > 1 or kind is LubanError, "an error without a row of its own or an ancestor's"
    assert kind.__name__ in str(errors.__doc__), "the tree at the top of the file shows every error"


def test_children_take_their_ancestors_codes() -> None:
    assert codes(UnknownPlugin) == CODES[errors.PluginError]
    assert codes(NotFound("x")).http == 404


def test_one_exit_code_a_family() -> None:
    families = {kind: codes(kind).exit for kind in LubanError.__subclasses__() if not kind.__name__.startswith("_")}
    assert len(set(families.values())) == len(families)


def test_the_hint_is_told_after_the_message() -> None:
    error = NotFound("no run is called 'x'", hint="luban run")
    assert str(error) == "no run is called 'x'\n  fix: luban run"
    assert (error.message, error.hint) == ("no run is called 'x'", "luban run")
    assert str(NotFound("gone")) == "gone"


def test_all_problems_of_a_file_are_told_together() -> None:
    problems = [
        Problem("train.epochs", "'x'", "a number", 7, "write 3"),
        Problem("reviews.csv, row 17", "no label", "one of good, bad"),
    ]
    text = str(DataError(problems, source="reviews.csv"))
    assert text.splitlines() == [
        "2 problems in reviews.csv:",
        "  train.epochs (line 7): got 'x', wanted a number. write 3",
        "  reviews.csv, row 17: got no label, wanted one of good, bad",
    ]
    assert str(ProjectError(problems[:1])).startswith("1 problem:\n")


def test_gate_errors_carry_both_numbers() -> None:
    error = errors.BelowGate("accuracy is too low", measured=0.89, allowed=0.92)
    assert (error.measured, error.allowed) == (0.89, 0.92)


def test_did_you_mean() -> None:
    assert errors.did_you_mean("clasify", ["tag", "classify"]) == "did you mean 'classify'? known: classify, tag"
    assert errors.did_you_mean("zzz", ["tag"]) == "known: tag"
    assert errors.did_you_mean("zzz", []) == ""


@pytest.mark.parametrize(
    "error",
    [
        NotFound("a", hint="b"),
        ProjectError([Problem("a", "b", "c")], source="luban.yaml", hint="h"),
        errors.ParityFailed("a", measured=1.0, allowed=0.5, hint="h"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_cross_processes(error: LubanError) -> None:
    """Worker processes send their errors back pickled; this is the interpreter's own channel, not a file."""
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (str(again), vars(again)) == (str(error), vars(error))


@pytest.mark.parametrize(
    ("came", "told"),
    [
        (None, "pip install --upgrade 'luban[grpc]'"),
        ("not json", "pip install --upgrade 'luban[grpc]'"),
        ('{"url": "file:///home/ann/a%20b", "dir_info": {"editable": true}}', "pip install -e '/home/ann/a b[grpc]'"),
        ('{"url": "file:///home/ann/luban", "dir_info": {}}', "pip install '/home/ann/luban[grpc]'"),
        (
            '{"url": "https://example.org/luban.whl", "archive_info": {}}',
            "pip install --upgrade 'luban[grpc] @ https://example.org/luban.whl'",
        ),
    ],
)
def test_an_extra_is_installed_from_where_luban_came(
    monkeypatch: pytest.MonkeyPatch, came: str | None, told: str
) -> None:
    class Installed:
        def read_text(self, name: str) -> str | None:
            assert name == "direct_url.json"
            return came

    monkeypatch.setattr("importlib.metadata.distribution", lambda name: Installed())
    assert install.__wrapped__("grpc", upgrade=True) == told
