"""Everything that is wrong or doubtful about labelled rows, told before any training."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from luban.data import duplicates
from luban.data.check_tags import mentions, scheme
from luban.data.personal import NUMBERS, find_personal, mask
from luban.data.rows import EXAMPLES, FAIL, PARTS, PASS, WARN, Rows, named, percent, share_of
from luban.data.split import Splits
from luban.records import Finding

if TYPE_CHECKING:
    from luban.project.schema import DataSection


_FEW_UNKNOWN = 0.01


def check(
    splits: Splits,
    section: DataSection,
    *,
    labels: Sequence[str] | None = None,
    multi: bool = False,
    token_lengths: np.ndarray | None = None,
    max_length: int | None = None,
    probabilities: np.ndarray | None = None,
    estimate: Mapping[str, float] | None = None,
) -> list[Finding]:
    """Look at the three parts of a project's rows.

    Args:
        splits: the parts, as `split` returns them.
        section: the project's `data` section; texts are looked at as they are cleaned.
        labels: K label names in the order of `probabilities`; else the training labels, sorted.
        multi: rows may have several labels, or none.
        token_lengths: (N,) tokens of each training row, special tokens included.
        max_length: tokens that the model sees of a row.
        probabilities: (N, K) of the training rows, each predicted by a model that did not see it.
        estimate: what training needs and what there is: `memory_bytes`, `available_bytes`, `train_s`.

    Returns:
        One finding a check, in a fixed order, with the reasons of each verdict in the check's own docstring.
    """
    rows = Rows(splits, section, tuple(labels) if labels is not None else None)
    findings = [
        _schema(rows, multi), _empty(rows), _conflicts(rows), _exact(rows), _near(rows), _leaks(rows),
        _imbalance(rows), _lengths(rows, token_lengths, max_length), _personal(rows), _damage(rows),
    ]  # fmt: skip
    if probabilities is not None and not rows.per_token:
        findings.append(_suspect_labels(rows, probabilities, multi))
    if rows.per_token:
        findings += [scheme(rows), mentions(rows)]
    if estimate is not None:
        findings.append(_resources(estimate))
    return findings


def _schema(rows: Rows, multi: bool) -> Finding:
    """FAIL where there is nothing to learn (fewer than two labels) or rows to judge by have labels that training lacks.

    The latter is a WARN where it concerns less than 1% of these rows and each has one label: rare ones end up anywhere.
    """
    by_part = [Counter(label for row, at in zip(rows.kinds, rows.part, strict=True) if at == part for label in row)
               for part in range(3)]  # fmt: skip
    train = by_part[0]
    facts = {
        "rows": {name: len(part) for name, part in zip(PARTS, rows.parts, strict=True)},
        "labels": {name: dict(sorted(counts.items())) for name, counts in zip(PARTS, by_part, strict=True)},
    }
    counts = ", ".join(f"{len(part)} {name}" for name, part in zip(PARTS, rows.parts, strict=True))
    kind = "kinds of entities" if rows.per_token else "labels"
    message = f"{counts} rows; {len(train)} {kind}"
    unknown = sorted({*by_part[1], *by_part[2]} - {*train})
    if unknown:
        found = [place for place, row in enumerate(rows.kinds) if rows.part[place] and {*row} & {*unknown}]
        few = not rows.per_token and share_of(len(found), sum(map(len, rows.parts[1:]))) < _FEW_UNKNOWN
        return Finding(
            "schema", WARN if few else FAIL,
            f"{message}. Not in training: {named(unknown)}, on {len(found)} row{'s' if len(found) > 1 else ''}",
            "mend the spelling of these labels, or add training rows that have them", rows.shows(found), facts,
        )  # fmt: skip
    if len(train) < (1 if rows.per_token or multi else 2):
        told = f"{message}: there is nothing to tell apart"
        return Finding("schema", FAIL, told, "add rows of other labels", (), facts)
    several = [place for place, row in enumerate(rows.kinds) if len(row) != 1] if not (rows.per_token or multi) else []
    if several:
        return Finding(
            "schema", FAIL, f"{message}. {len(several)} rows have no label or several, and the task takes one",
            "give each row one label, or set `multi_label: true` in the task", rows.shows(several), facts,
        )  # fmt: skip
    return Finding("schema", PASS, message, "", (), facts)


def _empty(rows: Rows) -> Finding:
    """WARN from the first text with nothing in it after cleaning; FAIL from 5%: no accident but a wrong column."""
    empty = [place for place, text in enumerate(rows.clean) if not text.strip()]
    share = share_of(len(empty), len(rows.texts))
    verdict = FAIL if share >= 0.05 else WARN if empty else PASS
    message = f"{len(empty)} rows ({percent(share)}) have no text after cleaning" if empty else "every row has a text"
    mend = "take these rows out, or see whether `data.text` names the right column" if empty else ""
    return Finding("empty texts", verdict, message, mend, rows.shows(empty), {"count": len(empty), "share": share})


def _conflicts(rows: Rows) -> Finding:
    """WARN from the first text that is labelled in two ways; FAIL from 5% of the rows: nothing can be right on both."""
    groups: dict[int, list[int]] = defaultdict(list)
    for place, group in enumerate(rows.duplicates.exact.tolist()):
        groups[group].append(place)
    found = [group for group in groups.values() if len(group) > 1 and len({rows.answers[place] for place in group}) > 1]
    n_rows = sum(map(len, found))
    share = share_of(n_rows, len(rows.texts))
    verdict = FAIL if share >= 0.05 else WARN if found else PASS
    if not found:
        return Finding("conflicting labels", PASS, "no text is labelled in two ways", "", (), {"texts": 0, "rows": 0})
    found.sort(key=len, reverse=True)
    examples = []
    for group in found[:EXAMPLES]:
        ways = Counter(rows.answers[place] for place in group)
        told = "; ".join(f"{' + '.join(answer) or 'none'} x{count}" for answer, count in ways.most_common(3))
        examples.append(rows.show(group[0], f": {told[:200]}"))
    return Finding(
        "conflicting labels", verdict,
        f"{len(found)} text{'s are' if len(found) > 1 else ' is'} labelled in two ways: "
        f"{n_rows} rows ({percent(share)})",
        "decide on one label for each of these texts", tuple(examples),
        {"texts": len(found), "rows": n_rows, "share": share,
         "at": [rows.places[place] for group in found for place in group]},
    )  # fmt: skip


def _repeats(rows: Rows, groups: np.ndarray) -> np.ndarray:
    """Return the training rows that repeat an earlier training row's group."""
    train = groups[: len(rows.splits.train)]
    _, first = np.unique(train, return_index=True)
    return np.setdiff1d(np.arange(len(train)), first)


def _exact(rows: Rows) -> Finding:
    """WARN from 1% of training rows: they cost time, and weigh what they repeat without anyone having chosen so."""
    found = _repeats(rows, rows.duplicates.exact)
    share = share_of(len(found), len(rows.splits.train))
    message = f"{len(found)} training rows ({percent(share)}) repeat another but for case, width and punctuation"
    mend = "keep one of each, unless their number is meant" if share >= 0.01 else ""
    return Finding("exact duplicates", WARN if share >= 0.01 else PASS, message, mend, rows.shows(found.tolist()),
                   {"count": len(found), "share": share})  # fmt: skip


def _near(rows: Rows) -> Finding:
    """WARN from 5% of training rows: the set is smaller than it looks, and says so by templates or boilerplate."""
    found = np.setdiff1d(_repeats(rows, rows.duplicates.near), _repeats(rows, rows.duplicates.exact))
    share = share_of(len(found), len(rows.splits.train))
    message = (f"{len(found)} training rows ({percent(share)}) nearly repeat another "
               f"({duplicates.SIMILARITY:.0%} of their n-grams)")  # fmt: skip
    near = rows.duplicates.near
    examples = tuple(
        rows.show(place, f" ~ {rows.texts[int(near[place])][:60]!r}") for place in found[:EXAMPLES].tolist()
    )
    mend = "look for templates or boilerplate; splitting keeps near duplicates on one side" if share >= 0.05 else ""
    return Finding("near duplicates", WARN if share >= 0.05 else PASS, message, mend, examples,
                   {"count": len(found), "share": share})  # fmt: skip


def _leaks(rows: Rows) -> Finding:
    """WARN from the first test or validation row that training (nearly) holds; FAIL from 10% of a part.

    A row known by heart can turn a wrong answer right, so that a share s of them lifts an accuracy a by up to
    s * (1 - a): from 10% on that is of the size of what one compares models by.
    """
    facts: dict[str, Any] = {}
    told: list[str] = []
    examples: list[str] = []
    worst = 0.0
    pairs = (("test", "train"), ("validation", "train"), ("test", "validation"))
    for later, earlier in pairs:
        mask = rows.part == PARTS.index(later)
        places = np.flatnonzero(mask)
        if not len(places):
            continue
        n_found = {}
        for kind, groups in (("exact", rows.duplicates.exact), ("near", rows.duplicates.near)):
            of_earlier = np.flatnonzero(rows.part == PARTS.index(earlier))
            leaked = places[np.isin(groups[places], groups[of_earlier])]
            n_found[kind] = len(leaked)
            if kind == "near" and len(leaked):
                first = dict(zip(groups[of_earlier][::-1].tolist(), of_earlier[::-1].tolist(), strict=True))
                shown = leaked[:2].tolist()
                examples += [rows.show(place, f" = {rows.show(first[int(groups[place])])}") for place in shown]
        share = share_of(n_found["near"], len(places))
        facts[f"{later} in {earlier}"] = {**n_found, "share": share}
        worst = max(worst, share)
        if n_found["near"]:
            told.append(f"{n_found['near']} of {len(places)} {later} rows ({percent(share)}) stand in {earlier} too, "
                        f"{n_found['exact']} of them exactly")  # fmt: skip
    if not told:
        return Finding("leaks between parts", PASS, "no row of one part stands in another", "", (), facts)
    return Finding(
        "leaks between parts", FAIL if worst >= 0.1 else WARN, "; ".join(told),
        "take these rows out of training; scores on them measure memory", tuple(examples[:EXAMPLES]), facts,
    )  # fmt: skip


def _suspect_labels(rows: Rows, probabilities: np.ndarray, multi: bool) -> Finding:
    """Confident learning (Northcutt et al. 2021) over held-out predictions; WARN from 2% of the rows.

    A row is suspect only where both of cleanlab's prunings say so, by class and by noise rate, which keeps a weak
    probe from accusing whatever it gets wrong. Never FAIL: it is the probe's word against a person's.
    """
    kinds = rows.kinds[: len(rows.splits.train)]
    names = rows.labels or tuple(sorted({label for row in kinds for label in row}))
    number = {label: place for place, label in enumerate(names)}
    probabilities = np.asarray(probabilities, np.float64)
    if probabilities.shape != (len(kinds), len(names)):
        raise ValueError(f"probabilities are {probabilities.shape}, wanted {(len(kinds), len(names))}")
    targets = np.zeros(probabilities.shape, bool)
    for place, row in enumerate(kinds):
        targets[place, [number[label] for label in row]] = True
    found = suspects(targets, probabilities, multi=multi)
    share = share_of(len(found), len(kinds))
    examples = []
    for place in found[:EXAMPLES].tolist():
        best = int(probabilities[place].argmax())
        likely = f"{names[best]} ({probabilities[place, best]:.2f})"
        examples.append(rows.show(place, f": labelled {' + '.join(kinds[place]) or 'none'}, looks like {likely}"))
    agreement = float(targets[np.arange(len(targets)), probabilities.argmax(axis=1)].mean()) if len(targets) else 0.0
    return Finding(
        "suspect labels", WARN if share >= 0.02 else PASS,
        f"{len(found)} training rows ({percent(share)}) look as if labelled wrongly to a probe that agrees with "
        f"{percent(agreement)} of the labels",
        "look at these rows, the most doubtful first, and correct their labels" if len(found) else "", tuple(examples),
        {"count": len(found), "share": share, "agreement": agreement,
         "rows": [rows.places[place][1] for place in found.tolist()]},
    )  # fmt: skip


def suspects(targets: np.ndarray, probabilities: np.ndarray, *, multi: bool = False) -> np.ndarray:
    """Return the rows whose labels are doubtful, the most doubtful first.

    Args:
        targets: (N, K) booleans: the labels.
        probabilities: (N, K), each row predicted by a model that did not see it.
        multi: rows may have several labels, or none.
    """
    if multi:
        from cleanlab.multilabel_classification import filter as several

        # A label that every row has, or none, gives nothing to compare with.
        used = targets.any(axis=0) & ~targets.all(axis=0)
        if used.sum() < 2:
            return np.zeros(0, np.int64)
        rows = [np.flatnonzero(row).tolist() for row in targets[:, used]]
        ranked = several.find_label_issues(
            rows, probabilities[:, used], return_indices_ranked_by="self_confidence", filter_by="both", n_jobs=1
        )
    else:
        from cleanlab import filter as single

        shares = probabilities / probabilities.sum(axis=1, keepdims=True)
        ranked = single.find_label_issues(
            targets.argmax(axis=1), shares, return_indices_ranked_by="self_confidence", filter_by="both", n_jobs=1
        )
    return np.asarray(ranked, np.int64)


def _imbalance(rows: Rows) -> Finding:
    """WARN where the commonest label has 20 times the rows of the rarest, or a label has fewer than 5.

    From 20 times on, a model that forgets the rare label loses less than a twentieth of the common one's rows; fewer
    than 5 rows can't be both learnt from and measured on.
    """
    n_train = len(rows.splits.train)
    if rows.per_token:
        counts = Counter(tag[2:] for tags in rows.tags[:n_train] for tag in tags if tag.startswith("B-"))
        unit = "entities"
    else:
        counts = Counter(label for row in rows.kinds[:n_train] for label in row)
        unit = "rows"
    if not counts:
        mend = "see whether `data.label` names the right column"
        return Finding("imbalance", FAIL, "training has no labels at all", mend)
    ordered = counts.most_common()
    (most, n_most), (least, n_least) = ordered[0], ordered[-1]
    few = sorted(label for label, count in counts.items() if count < 5)
    message = f"{most!r} has {n_most} {unit}, {least!r} {n_least}: {n_most / n_least:.1f} to 1"
    if few:
        message += f"; fewer than 5 {unit}: {named(few)}"
    mend = "add rows, or join labels" if few else ""
    if n_most >= 20 * n_least:
        mend = "add rows of the rare labels, join labels, or set `train.class_weights: balanced`"
    return Finding(
        "imbalance", WARN if mend else PASS, message, mend, (),
        {"ratio": n_most / n_least, "counts": dict(ordered), "few": few},
    )  # fmt: skip


def _lengths(rows: Rows, token_lengths: np.ndarray | None, max_length: int | None) -> Finding:
    """WARN from 5% of rows longer than the window: what is cut off is often where the answer stands; FAIL from half."""
    characters = np.fromiter(map(len, rows.clean), np.int64, len(rows.clean))
    facts: dict[str, Any] = {"characters": _spread(characters)}
    message = f"{int(np.median(characters)) if len(characters) else 0} characters a row at the median"
    if token_lengths is None or max_length is None or not len(token_lengths):
        return Finding("lengths", PASS, message, "", (), facts)
    facts |= {"tokens": _spread(token_lengths), "max_length": max_length}
    cut = np.flatnonzero(token_lengths > max_length)
    share = share_of(len(cut), len(token_lengths))
    facts |= {"truncated": len(cut), "share": share}
    tokens = facts["tokens"]
    message = (f"{tokens['p50']:.0f} tokens a row at the median, {tokens['p95']:.0f} at 95%, {tokens['max']:.0f} at "
               f"most; {len(cut)} rows ({percent(share)}) are longer than the window of {max_length}")  # fmt: skip
    fit = int(np.percentile(token_lengths, 99))
    mend = f"set `max_length: {fit}`, or choose how long texts are read in the task's options" if share >= 0.05 else ""
    longest = cut[np.argsort(-token_lengths[cut], kind="stable")]
    return Finding("lengths", FAIL if share >= 0.5 else WARN if share >= 0.05 else PASS, message, mend,
                   rows.shows(longest.tolist()), facts)  # fmt: skip


def _spread(values: np.ndarray) -> dict[str, float]:
    if not len(values):
        return {}
    middle, high, top = np.percentile(values, [50, 95, 99])
    named = {"mean": values.mean(), "p50": middle, "p95": high, "p99": top, "max": values.max()}
    return {name: float(value) for name, value in named.items()}


def _personal(rows: Rows) -> Finding:
    """WARN from the first: whoever keeps such rows answers for them by law (GDPR, PIPL), so someone must decide."""
    counts: Counter[str] = Counter()
    examples: list[str] = []
    n_rows = 0
    for place, text in enumerate(rows.texts):
        found = find_personal(text, NUMBERS)
        if found:
            n_rows += 1
            counts.update(one.kind for one in found)
            if len(examples) < EXAMPLES:
                examples.append(rows.show(place, f": {found[0].kind}", mask(text, found)))
    facts = {"rows": n_rows, "counts": dict(counts)}
    if not n_rows:
        message = "no mail address, telephone, identity, card or network number"
        return Finding("personal data", PASS, message, "", (), facts)
    told = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
    return Finding("personal data", WARN, f"{n_rows} row{'s hold' if n_rows > 1 else ' holds'} personal data: {told}",
                   "replace them by placeholders, unless you may keep them", tuple(examples), facts)  # fmt: skip


_DAMAGE = re.compile("\ufffd|锟斤拷|烫烫烫|屯屯屯|ï»¿|[\x80-\x9f]")


def _damage(rows: Rows) -> Finding:
    """WARN from the first text that is still garbled after cleaning; FAIL from 5%: the file was saved wrongly."""
    found = [place for place, text in enumerate(rows.clean) if _is_damaged(text)]
    n_mended = sum(
        _is_damaged(text) and not _is_damaged(clean)
        for text, clean in zip(rows.texts, rows.clean, strict=True)
        if text != clean
    )
    share = share_of(len(found), len(rows.texts))
    facts = {"count": len(found), "share": share, "mended_by_cleaning": n_mended}
    if not found:
        told = f"; cleaning mends {n_mended} texts" if n_mended else ""
        return Finding("encoding damage", PASS, f"no garbled text{told}", "", (), facts)
    hint = "" if "unicode" in rows.section.clean else ", or add `unicode` to `data.clean`"
    return Finding("encoding damage", FAIL if share >= 0.05 else WARN,
                   f"{len(found)} texts ({percent(share)}) hold characters that come of a wrong encoding",
                   f"save the source as UTF-8 again{hint}", rows.shows(found), facts)  # fmt: skip


def _is_damaged(text: str) -> bool:
    if text.isascii():
        return False
    if _DAMAGE.search(text):
        return True
    from ftfy.badness import is_bad

    return bool(is_bad(text))


def _resources(estimate: Mapping[str, float]) -> Finding:
    """FAIL where training wants more memory than there is; WARN from 80% of it, since the rest is not all ours."""
    needed, available = estimate.get("memory_bytes", 0.0), estimate.get("available_bytes", 0.0)
    share = needed / available if available else 0.0
    message = f"training needs about {needed / 2**30:.1f} GiB of {available / 2**30:.1f} GiB memory"
    if seconds := estimate.get("train_s"):
        message += f" and {seconds / 60:.0f} minutes" if seconds >= 90 else f" and {seconds:.0f} seconds"
    verdict = FAIL if share > 1 else WARN if share > 0.8 else PASS
    mend = "lower `train.batch_tokens` or `max_length`, or choose a smaller base" if share > 0.8 else ""
    return Finding("memory and time", verdict, message, mend, (), dict(estimate))
