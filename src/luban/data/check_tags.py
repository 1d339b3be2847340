"""What can be wrong about tagged rows alone: the tag scheme, and mentions that are labelled now so and now so."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from luban.data.read import mended
from luban.data.rows import EXAMPLES, FAIL, PASS, WARN, Rows, entities, percent, share_of, spell
from luban.records import Finding


def scheme(rows: Rows) -> Finding:
    """WARN where tags or spans had to be mended while reading; FAIL from 5% of the rows: the scheme is another one."""
    found: dict[str, tuple[int, str]] = {}
    for part in rows.parts:  # parts of one file tell the same
        for kind, told in mended(part).items():
            where = f"rows {', '.join(map(str, told['rows']))}: {kind}"
            found[where] = (int(told["count"]), kind)
    counts: Counter[str] = Counter()
    for count, kind in found.values():
        counts[kind] += count
    total = counts.total()
    n_entities = sum(tag.startswith("B-") for tags in rows.tags for tag in tags)
    facts = {"mended": dict(counts), "entities": n_entities}
    if not total:
        return Finding("tag scheme", PASS, f"{n_entities} entities, every tag in order", "", (), facts)
    verdict = FAIL if total >= 0.05 * max(1, n_entities) else WARN
    return Finding("tag scheme", verdict, f"{n_entities} entities; mended while reading: {total} tags or spans",
                   "correct these rows at their source", tuple(list(found)[:EXAMPLES]), facts)  # fmt: skip


def mentions(rows: Rows) -> Finding:
    """WARN where 5% of the entities are of mentions that are labelled in two ways, or left out elsewhere.

    A mention counts from its third occurrence, where the rarer way is no slip of the reader's eye: it has at least a
    tenth of the occurrences. Single characters are left aside, for they are often words of their own.
    """
    n_train = len(rows.splits.train)
    tokens = rows.tokens[:n_train]
    labelled: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    inside: list[set[int]] = []
    for row, tags in zip(tokens, rows.tags[:n_train], strict=True):
        taken: set[int] = set()
        for start, end, label in entities(tags):
            labelled[tuple(row[start:end])][label] += 1
            taken.update(range(start, end))
        inside.append(taken)
    known = {mention for mention, counts in labelled.items() if counts.total() >= 3 and len("".join(mention)) > 1}
    outside = _unlabelled(tokens, inside, known)
    doubtful: list[tuple[int, str]] = []
    n_doubtful = 0
    for mention in known:
        ways = Counter(labelled[mention])
        ways["not labelled"] = outside[mention] if outside[mention] < labelled[mention].total() else 0
        minority = ways.total() - max(ways.values())
        if minority >= max(1, 0.1 * ways.total()):
            n_doubtful += minority
            told = ", ".join(f"{label} x{count}" for label, count in ways.most_common() if count)
            doubtful.append((minority, f"{spell(mention)!r}: {told}"))
    doubtful.sort(key=lambda item: (-item[0], item[1]))
    n_entities = sum(counts.total() for counts in labelled.values())
    share = share_of(n_doubtful, n_entities)
    facts = {"mentions": len(doubtful), "entities": n_doubtful, "share": share}
    message = (f"{len(doubtful)} mentions are labelled in more than one way ({n_doubtful} times, {percent(share)} of "
               "entities)")  # fmt: skip
    return Finding("conflicting mentions", WARN if share >= 0.05 else PASS, message,
                   "agree on a rule for these mentions, and label them alike" if share >= 0.05 else "",
                   tuple(told for _, told in doubtful[:EXAMPLES]), facts)  # fmt: skip


def _unlabelled(
    tokens: Sequence[Sequence[str]], inside: Sequence[set[int]], known: set[tuple[str, ...]]
) -> Counter[tuple[str, ...]]:
    """Count where known mentions stand outside of any entity."""
    by_first: dict[str, set[int]] = defaultdict(set)
    for mention in known:
        by_first[mention[0]].add(len(mention))
    found: Counter[tuple[str, ...]] = Counter()
    for row, taken in zip(tokens, inside, strict=True):
        for place, token in enumerate(row):
            for length in by_first.get(token, ()):
                stretch = tuple(row[place : place + length])
                if stretch in known and not any(at in taken for at in range(place, place + length)):
                    found[stretch] += 1
    return found
