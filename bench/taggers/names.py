"""A project that trains a tagger of names and places, English and Chinese, on public sets: for `luban mask --names-by`.

WNUT-17 (tweets, forums), CLUENER (news) and ResumeNER (résumés), with two labels: PER and LOC. Test rows are those
sets' own, without any that stand among the training rows too.

    python bench/taggers/names.py ../shared/data names
    cd names && luban run
    python bench/mask.py --names-by names/runs/names/bundle --data ../shared/data
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

SETS = {
    "wnut17": ("test", " ", {"person": "PER", "location": "LOC"}),
    "cluener": ("dev", "", {"name": "PER", "address": "LOC", "scene": "LOC"}),
    "resume_ner": ("test", "", {"NAME": "PER", "LOC": "LOC"}),
}
"""Set -> its part to test on, what stands between its tokens, and which of its labels are meant."""
PROJECT = """\
name: names
task: {kind: tag, crf: true}
base: e5-small-multilingual
max_length: 128
data: {train: train.jsonl, test: test.jsonl, text: text, label: entities, languages: [en, zh]}
train: {start: probe, epochs: 2.0, learning_rate: 1.0e-4, freeze: embeddings, freeze_layers: 6, choose_by: f1,
        threads: 1}
evaluate: {baselines: [majority]}
"""


def rows(path: Path, between: str, means: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Yield texts with spans of a file of tokens and tags, BIO or BMES; a text comes once."""
    seen = set()
    for line in path.read_text("utf-8").splitlines():
        row = json.loads(line)
        text, spans = joined(row["tokens"], row["tags"], between)
        if text and text not in seen:
            seen.add(text)
            yield {"text": text, "entities": [[*span[:2], means[span[2]]] for span in spans if span[2] in means]}


def joined(tokens: Sequence[str], tags: Sequence[str], between: str) -> tuple[str, list[tuple[int, int, str]]]:
    """Return a text, and start, end and label of each span in it."""
    text, spans = "", []
    for token, tag in zip(tokens, tags, strict=True):
        text += between if text else ""
        if tag[:2] in ("B-", "S-"):
            spans.append((len(text), len(text) + len(token), tag[2:]))
        elif tag != "O" and spans:
            spans[-1] = (spans[-1][0], len(text) + len(token), spans[-1][2])
        text += token
    return text, spans


def main() -> None:
    """Write the project and its rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="Folder of labelled data sets.")
    parser.add_argument("out", type=Path, help="Folder of the project.")
    parser.add_argument("--most", type=int, default=3500, help="Training rows of each set, at most.")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    parts: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    for name, (test, between, means) in SETS.items():
        found = list(rows(options.data / name / "train.jsonl", between, means))
        known = {row["text"] for row in found}
        # Rows with a name first: most have none.
        random.Random(13).shuffle(found)
        found.sort(key=lambda row: all(span[2] != "PER" for span in row["entities"]))
        n_named = sum(any(span[2] == "PER" for span in row["entities"]) for row in found)
        parts["train"] += found[: min(options.most, 2 * n_named)]
        parts["test"] += [
            row for row in rows(options.data / name / f"{test}.jsonl", between, means) if row["text"] not in known
        ]
    for part, some in parts.items():
        random.Random(13).shuffle(some)
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in some)
        (options.out / f"{part}.jsonl").write_text(lines, "utf-8")
        print(f"{part}: {len(some)} rows, {sum(len(row['entities']) for row in some)} spans")
    (options.out / "luban.yaml").write_text(PROJECT, "utf-8")


if __name__ == "__main__":
    main()
