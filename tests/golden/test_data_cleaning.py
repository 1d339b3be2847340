"""Cleaning is part of every sealed bundle: a text must be cleaned tomorrow as it was on the day of the training.

`data_cleaning.json` keeps what each step made of some odd texts. A difference here means that bundles in use would
answer otherwise than they were measured: change it only on purpose, by `python tests/golden/test_data_cleaning.py`.
"""

from __future__ import annotations

import json
from pathlib import Path

from luban.data.clean import STEPS, Cleaner

KEPT = Path(__file__).with_name("data_cleaning.json")
REPLACE = {"微信": "WeChat", "2元": "two yuan", "12元": "twelve yuan"}
TEXTS = [
    "Where  is my card?\r\n", "voilÃ  un cafÃ© â€œouiâ€\u009d", "o\ufb03ce e\u0301te\u0301",
    "ＡＢＣ１２３，。！？（好）　～",
    "<p>Hello&nbsp;<b>you</b><br>&lt;b&gt; &#20320;</p><script>x<y</script>", "3 < 5 && a<b R&D &copy &copy;",
    "臺灣的電腦軟體，皇后的頭髮，乾坤，什麼，裡面，著急",
    "真的吗？？？！！看https://t.cn/A1b2?x=1，@小明 好😀👨\u200d👩\u200d👧！",
    "\u200bzero\u200b width\ufeff \u202eright\u202c", "tabs\tand\nlines\x0b\x0c\x1c\u2028x", "İSTANBUL ΣΊΣΥΦΟΣ ÉTÉ",
    "加微信，12元或2元", "half a \ud83d emoji", "", " ",
]  # fmt: skip


def cleaned() -> dict[str, list[str]]:
    return {step: Cleaner((step,), REPLACE)(TEXTS) for step in STEPS} | {"all": Cleaner(tuple(STEPS), REPLACE)(TEXTS)}


def test_every_step_cleans_as_it_did() -> None:
    assert cleaned() == json.loads(KEPT.read_text("utf-8"))


if __name__ == "__main__":
    KEPT.write_text(json.dumps(cleaned(), ensure_ascii=True, indent=1) + "\n", "utf-8")
