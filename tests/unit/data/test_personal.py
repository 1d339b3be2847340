"""Personal data: what counts, what does not, and that it is starred."""

from __future__ import annotations

import pytest

from luban.data.personal import find_personal, mask


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("Mary-Ann O'Neil wrote twice", ["name"]),
        ("请陈小姐来一趟", ["name"]),
        ("write to first.last+tag@mail.example.co.uk please", ["email"]),
        ("我的邮箱是zhangsan@qq.com，谢谢", ["email"]),
        ("电话13912345678联系", ["phone"]),
        ("电话：１３９１２３４５６７８", ["phone"]),
        ("call (212) 555-2368 or +44 20 7946 0958", ["phone", "phone"]),
        ("身份证11010519491231002X", ["identity number"]),
        ("card 4111 1111 1111 1111 please", ["bank card"]),
        ("卡号6222021234567890128", ["bank card"]),
        ("卡号6222021234567890127", []),
        ("from 192.168.17.23 today", ["ip address"]),
        ("13912345678, a@b.cn", ["phone", "email"]),
    ],
)
def test_found(text: str, kinds: list[str]) -> None:
    found = find_personal(text)
    assert [one.kind for one in found] == kinds
    hidden = mask(text, found)
    assert len(hidden) == len(text)
    assert find_personal(hidden) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no numbers here",
        "order 20240531 cost 1999.99",
        "身份证110105194912310021",  # the check digit is wrong
        "4111 1111 1111 1112",
        "version 1.2.3.4 and 0.0.0.0 and 999.1.1.1",
        "2007.6-2009.8 任总经理",
        "http://t.co/a/13912345678",
        "0000000000000000",
        "@name and name@",
    ],
)
def test_not_found(text: str) -> None:
    assert find_personal(text) == []
