"""What a model is compared with: the commonest answer, and what counting words can do without a pretrained base.

Both learn from the training rows alone, in seconds, and answer the test rows in the form in which the model does. The
third baseline, the linear probe, needs the base: its predictions come from whoever holds it.

Legend: N rows, K labels, U units (tokens) of all rows laid end to end.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from luban.data.units import locate
from luban.records import LabelScores, Prediction, Span
from luban.tasks import chain

if TYPE_CHECKING:
    import pyarrow as pa
    from scipy.sparse import csr_matrix

NAMES = ("majority", "tfidf")
MAX_ROWS = 50_000
"""Rows that TF-IDF learns from, at most; more are thinned out by chance, with a fixed seed."""
MAX_UNITS = 250_000
"""Tokens that the tagger of `tfidf` learns from, at most."""
_SEED = 13
_MAX_FEATURES = 50_000
_HASH_BITS = 18


def predict(
    name: str, *, task: str, labels: Sequence[str], multi_label: bool, train: pa.Table, test: pa.Table
) -> list[Prediction]:
    """Return a baseline's predictions for the test rows.

    Args:
        name: `majority` or `tfidf`.
        task: `classify` or `tag`.
        labels: the model's labels; labels of training rows that are not among them are left out.
        multi_label: classify: a row may have any number of labels.
        train: the training rows, a Dataset's table.
        test: the test rows; their labels are not looked at.

    Raises:
        ValueError: there is no such baseline, or no such task.
    """
    if name not in NAMES or task not in ("classify", "tag"):
        raise ValueError(f"baseline {name!r} for task {task!r}: known are {', '.join(NAMES)} for classify and tag")
    if task == "tag":
        learn = _known_tokens if name == "majority" else _linear_tagger
        return learn(labels, train, test)
    texts: list[str] = test.column("text").to_pylist()
    if name == "majority":
        return _commonest(labels, train, len(texts), multi_label)
    return _tfidf(labels, train, texts, multi_label)


def _targets(labels: Sequence[str], train: pa.Table) -> NDArray[np.bool_]:
    """Return (N, K) which labels the training rows have."""
    index = {label: position for position, label in enumerate(labels)}
    targets = np.zeros((train.num_rows, len(labels)), np.bool_)
    for row, names in enumerate(train.column("labels").to_pylist()):
        for name in names or ():
            if name in index:
                targets[row, index[name]] = True
    return targets


def _commonest(labels: Sequence[str], train: pa.Table, n: int, multi_label: bool) -> list[Prediction]:
    """Return, for every row, the commonest label, or the commonest set of labels that is not empty."""
    names = tuple(labels)
    targets = _targets(names, train)
    shares = targets.mean(axis=0) if len(targets) else np.zeros(len(names))
    if multi_label:
        sets = Counter(map(tuple, (np.flatnonzero(row).tolist() for row in targets if row.any())))
        best: tuple[int, ...] = max(sets, key=lambda kind: (sets[kind], tuple(-label for label in kind)), default=())
    else:
        best = (int(shares.argmax()),)
    answer = Prediction(tuple(names[label] for label in best), LabelScores(names, shares))
    return [answer] * n


def _tfidf(labels: Sequence[str], train: pa.Table, texts: list[str], multi_label: bool) -> list[Prediction]:
    """Return the answers of logistic regression on TF-IDF of words, pairs of words, and runs of 1 to 4 characters.

    The runs of characters are what reads Chinese, and misspelt words. One regression a label: on many labels that is
    both quicker and no worse than one over all of them.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_union

    names = tuple(labels)
    targets = _targets(names, train)
    rows = np.flatnonzero(targets.any(axis=1)) if not multi_label else np.arange(len(targets))
    if len(rows) > MAX_ROWS:
        rows = np.sort(np.random.default_rng(_SEED).choice(rows, MAX_ROWS, replace=False))
    known: list[str] = train.column("text").take(rows).to_pylist()
    common: dict[str, Any] = {
        "sublinear_tf": True,
        "min_df": 2 if len(rows) > 500 else 1,
        "max_features": _MAX_FEATURES,
        "dtype": np.float32,
    }
    features = make_union(
        TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b", **common),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), **common),
    )
    try:
        seen = features.fit_transform(known)
    except ValueError:  # no row has a word, so there is nothing to learn from
        return _commonest(labels, train, len(texts), multi_label)
    asked = features.transform(texts)
    probabilities = np.zeros((len(texts), len(names)))
    for label in range(len(names)):
        own = targets[rows, label]
        if own.all() or not own.any():
            probabilities[:, label] = own.mean()
            continue
        model = LogisticRegression(solver="liblinear", dual=True, C=10.0, tol=0.3, max_iter=1000, random_state=_SEED)
        probabilities[:, label] = model.fit(seen, own).predict_proba(asked)[:, 1]
        if len(names) == 2 and not multi_label:
            probabilities[:, 1 - label] = 1 - probabilities[:, label]
            break
    if multi_label:
        return [Prediction(_given(row, names), LabelScores(names, row)) for row in probabilities]
    probabilities /= np.maximum(probabilities.sum(axis=1, keepdims=True), 1e-12)
    return [
        Prediction((names[best],), LabelScores(names, row))
        for best, row in zip(probabilities.argmax(axis=1).tolist(), probabilities, strict=True)
    ]


def _given(row: NDArray[np.float64], names: Sequence[str]) -> tuple[str, ...]:
    return tuple(names[label] for label in np.argsort(-row, kind="stable") if row[label] >= 0.5)


def _known_tokens(labels: Sequence[str], train: pa.Table, test: pa.Table) -> list[Prediction]:
    """Return what a dictionary says: every token known from training has its commonest tag, others have none."""
    tags = {tag: position for position, tag in enumerate(chain.tags_of(labels))}
    found: dict[str, Counter[int]] = {}
    for tokens, row in zip(train.column("tokens").to_pylist(), train.column("tags").to_pylist(), strict=True):
        for token, tag in zip(tokens, row, strict=True):
            found.setdefault(token, Counter())[tags.get(tag, chain.OUTSIDE)] += 1
    best = {token: min(counts.items(), key=lambda item: (-item[1], item[0])) for token, counts in found.items()}
    rows = test.column("tokens").to_pylist()
    answers = [best.get(token, (chain.OUTSIDE, 0)) for tokens in rows for token in tokens]
    offsets = _offsets(rows)
    given = chain.repair(np.array([tag for tag, _ in answers], np.int64), offsets)
    sure = np.array(
        [
            times / found[token].total() if times else 0.0
            for (_, times), token in zip(answers, (t for tokens in rows for t in tokens), strict=True)
        ]
    )
    return _spans(given, sure, offsets, labels, test)


def _linear_tagger(labels: Sequence[str], train: pa.Table, test: pa.Table) -> list[Prediction]:
    """Return the answers of a linear classifier of each token by itself, its shape and its neighbours.

    Features are hashed, the classifier learns by stochastic gradients, and of each row the likeliest tags that BIO
    allows are taken.
    """
    from sklearn.linear_model import SGDClassifier

    names = chain.tags_of(labels)
    index = {tag: position for position, tag in enumerate(names)}
    learnt = _thinned(train)
    targets = np.array([index.get(tag, chain.OUTSIDE) for row in learnt.column("tags").to_pylist() for tag in row])
    rows = test.column("tokens").to_pylist()
    offsets = _offsets(rows)
    if len(np.unique(targets)) < 2:
        return _spans(np.zeros(int(offsets[-1]), np.int64), np.ones(int(offsets[-1])), offsets, labels, test)
    model = SGDClassifier(loss="log_loss", alpha=4e-6, max_iter=5, tol=None, random_state=_SEED)
    model.fit(_window_features(learnt.column("tokens").to_pylist()), targets)
    if not offsets[-1]:
        return [Prediction() for _ in rows]
    shares = np.full((int(offsets[-1]), len(names)), 1e-9)
    shares[:, model.classes_] += model.predict_proba(_window_features(rows))
    given = chain.best(np.log(shares), offsets)
    return _spans(given, shares[np.arange(len(given)), given], offsets, labels, test)


def _thinned(train: pa.Table) -> pa.Table:
    """Return the training rows, or as many of them, drawn by chance, as have MAX_UNITS tokens."""
    order = np.random.default_rng(_SEED).permutation(train.num_rows)
    sizes = np.array([len(tokens) for tokens in train.column("tokens").to_pylist()], np.int64)
    fitting = order[np.cumsum(sizes[order]) <= MAX_UNITS] if sizes.sum() > MAX_UNITS else order
    return train.take(np.sort(fitting))


def _offsets(rows: Sequence[Sequence[str]]) -> NDArray[np.int64]:
    """Return (N + 1,) where the tokens of each row begin and end."""
    return np.concatenate([[0], np.cumsum([len(tokens) for tokens in rows])]).astype(np.int64)


_DIGIT, _UPPER, _LOWER = re.compile(r"\d"), re.compile(r"[^\W\d_a-z]"), re.compile(r"[a-z]")
_RUN = re.compile(r"(.)\1+")


def _shape(token: str) -> str:
    """Return what a token looks like: `Xx0-` for `Covid-19`."""
    return _RUN.sub(r"\1", _DIGIT.sub("0", _UPPER.sub("X", _LOWER.sub("x", token))))


def _hashes(token: str) -> tuple[int, ...]:
    """Return hashes of a token, in lower case, its first and last three characters, and its shape."""
    low = token.lower()
    return tuple(zlib.crc32(part.encode("utf-8", "surrogatepass")) for part in (low, low[:3], low[-3:], _shape(token)))


def _window_features(rows: Sequence[Sequence[str]]) -> csr_matrix:
    """Return (U, 2**18) hashed features: each token, up to two on either side, and pairs of neighbours."""
    from scipy.sparse import csr_matrix

    kinds: dict[str, int] = {}
    ids = np.array([kinds.setdefault(token, len(kinds)) for tokens in rows for token in tokens], np.int64)
    parts = np.array([*(_hashes(token) for token in kinds), (1, 2, 3, 4)], np.uint64)
    row_of = np.repeat(np.arange(len(rows)), [len(tokens) for tokens in rows])

    def beside(step: int) -> NDArray[np.uint64]:
        """(U, 4) the hashes of the token `step` places on, or those that mean the row's edge."""
        place = np.arange(len(ids)) + step
        inside = (place >= 0) & (place < len(ids))
        inside[inside] = row_of[place[inside]] == row_of[inside]
        moved = np.full(len(ids), len(kinds))
        moved[inside] = ids[place[inside]]
        found: NDArray[np.uint64] = parts[moved]
        return found

    here, left, right, far_left, far_right = (beside(step) for step in (0, -1, 1, -2, 2))
    columns = [*here.T, *left.T[[0, 2, 3]], *right.T[[0, 1, 3]], far_left[:, 0], far_right[:, 0]]
    prime = np.uint64(1_000_003)
    columns += [
        left[:, 0] * prime + here[:, 0],
        here[:, 0] * prime + right[:, 0],
        left[:, 3] * prime + here[:, 3],
        here[:, 3] * prime + right[:, 3],
        (far_left[:, 0] * prime + left[:, 0]) * prime + here[:, 0],
        (here[:, 0] * prime + right[:, 0]) * prime + far_right[:, 0],
    ]
    # A multiplication by an odd constant and the top bits: Fibonacci hashing (Knuth 1973, section 6.4).
    spread = np.uint64(0x9E3779B97F4A7C15)
    hashed = [
        (column + np.uint64(place + 1) * prime) * spread >> np.uint64(64 - _HASH_BITS)
        for place, column in enumerate(columns)
    ]
    indices = np.stack(hashed, axis=1).astype(np.int32)
    n, width = indices.shape
    starts = np.arange(0, n * width + 1, width)
    return csr_matrix((np.ones(n * width), indices.ravel(), starts), shape=(n, 2**_HASH_BITS))


def _spans(
    tags: NDArray[np.int64],
    sure: NDArray[np.float64],
    offsets: NDArray[np.int64],
    labels: Sequence[str],
    test: pa.Table,
) -> list[Prediction]:
    """Return the entities of valid tags (U,), placed in the texts of the rows."""
    result = []
    rows = zip(test.column("text").to_pylist(), test.column("tokens").to_pylist(), strict=True)
    for number, (text, tokens) in enumerate(rows):
        own = slice(int(offsets[number]), int(offsets[number + 1]))
        first, last = chain.segments(tags[own])
        if not len(first):
            result.append(Prediction())
            continue
        places = locate(text, tokens)
        spans = []
        for begin, end in zip(first.tolist(), last.tolist(), strict=True):
            label = labels[int(chain.label_of(tags[own][begin])) - 1]
            start, stop = places[begin][0], places[end][1]
            spans.append(Span(start, stop, label, text[start:stop], float(sure[own][begin : end + 1].min())))
        result.append(Prediction(spans=tuple(spans)))
    return result
