"""Numbers, times and foreign text as they are printed."""

from __future__ import annotations

import pytest

from luban.cli.show import words


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("我的卡还没到", "我的卡还没到"),
        ("a\x1b[31mred\x07", "a\\x1b[31mred\\x07"),
        ("one\ntwo\r\n\tthree", "one⏎two⏎ three"),
        ("user\u202egnp.exe", "user\\u202egnp.exe"),
        ("lone \ud83d half", "lone \\ud83d half"),
        ("c1 \x9b1m and del \x7f", "c1 \\x9b1m and del \\x7f"),
        ("全角　空格 and\xa0no-break", "全角　空格 and\xa0no-break"),
        ("👩‍👩‍👧 emoji", "👩‍👩‍👧 emoji"),
    ],
)
def test_foreign_text_can_not_command_the_terminal(text: str, shown: str) -> None:
    assert words.safe(text) == shown


def test_lines_are_kept_where_they_are_wanted() -> None:
    assert words.safe("one\ntwo\x1b", lines=True) == "one\ntwo\\x1b"


@pytest.mark.parametrize(
    ("length_s", "shown"),
    [
        (-1, "0.0 s"),
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1:00"),
        (185, "3:05"),
        (3_723, "1:02:03"),
        (86_400, "1 day 0:00:00"),
        (183_605, "2 days 3:00:05"),
    ],
)
def test_lengths_of_time(length_s: float, shown: str) -> None:
    assert words.seconds(length_s) == shown


@pytest.mark.parametrize(
    ("length_s", "shown"), [(0, "1 s left"), (7.6, "8 s left"), (9.7, "10 s left"), (125, "2:05 left")]
)
def test_time_left_is_no_finer_than_it_is_known(length_s: float, shown: str) -> None:
    assert words.left(length_s) == shown


@pytest.mark.parametrize(
    ("share", "shown"),
    [(0, "0%"), (0.003, "0.3%"), (0.01, "1%"), (0.444, "44%"), (0.99, "99%"), (0.997, "99.7%"), (1, "100%")],
)
def test_shares(share: float, shown: str) -> None:
    assert words.percent(share) == shown


@pytest.mark.parametrize(
    ("size_mb", "shown"), [(0.33, "0.3 MB"), (9.96, "10 MB"), (87.4, "87 MB"), (999.6, "1.0 GB"), (1437, "1.4 GB")]
)
def test_sizes(size_mb: float, shown: str) -> None:
    assert words.megabytes(size_mb) == shown


@pytest.mark.parametrize(("number", "shown"), [(0.0312, "0.031"), (8.12, "8.1"), (99.96, "100.0"), (1820.3, "1,820")])
def test_rates(number: float, shown: str) -> None:
    assert words.rate(number) == shown
