"""Store weights in 8 or 4 bits, and multiply in int8: a smaller graph, and on a CPU with VNNI a faster one.

`static` fixes the range of every activation on real windows. Its products are exact integers, so that an answer depends
on its own text alone: alone or in a batch, MiniLM's logits differ by 2e-6, as they do in float. `dynamic` takes each
batch's range as it comes, padding and all: as fast and less faithful, and an answer changes with its company, by 0.3 of
a logit in the mean and by 3 at most, where a logit's deviation is 3.6. `weights` multiplies in blocks that have scales
of their own: the most faithful with 8 bits, and the slowest. `fp16` and `bf16` halve the file and change no speed: ONNX
Runtime's CPU kernels multiply in float, and the weights are widened when the graph is opened.

Rates of MiniLM on banking77 as ratios to the float graph, on one thread of a CPU with AVX-512 and VNNI, alternating,
for one text of 16 tokens and for batches of 384 tokens: static 2.6 and 2.8, dynamic 2.7 and 2.8, weights in 8 bits 1.4
and 1.2, in 4 bits 1.4 and 1.1; ONNX Runtime's own dynamic quantiser on the graph with `Attention` 1.6 and 1.6.

Activations of encoders have a few channels that are ten times as large as all others, and these take up the range. With
`smooth`, part of their size goes from the activations into the weights (Xiao et al. 2022, "SmoothQuant"); how much is
chosen for each operator by the error of its product, as Lin et al. 2023 ("AWQ") do for weights.

Legend: W windows, T tokens of a sample, I inputs and O outputs of one product, K logits.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from luban.bundle.graph import Graph
from luban.compress import integers
from luban.errors import LubanError
from luban.models.windows import cut_to_budget, pad

if TYPE_CHECKING:
    from luban.records import Encoded

WORKS_ON = "graph"
_WINDOWS = 256
"""Windows on which ranges are taken and answers are compared."""
_FEW_WINDOWS = 48
"""Windows on which each operator alone is tried."""
_BATCH_TOKENS = 512
_NOTHING_TO_GAIN = 0.005
"""An operator with less than this share of the products stays in float: a head costs no time, and its errors are the
answer's."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of the method `quantise`."""

    how: Literal["static", "dynamic", "weights", "fp16", "bf16"] = "static"
    """Ranges of activations from example rows, or from each batch; or weights alone, in integers or in 16 bits."""
    bits: Literal[8, 4] = 8
    """Bits of a weight; 4 goes with `weights`."""
    per_channel: bool = True
    """One scale an output rather than one a matrix."""
    block: Literal[16, 32, 64, 128] = 32
    """For `weights`: inputs that share a scale. Fewer are more faithful, and slower."""
    smooth: bool = True
    """Even out activations before they are quantised, where that takes two thirds of the product's error away."""
    reduce_range: bool = False
    """Use 7 bits of the weights: for CPUs with AVX2 or AVX-512 but no VNNI, whose int8 products overflow otherwise."""
    embeddings: Literal[8, 4, 0] = 8
    """Bits of the vocabulary's table, with a scale a row (8) or a block (4); 0 leaves it as it is."""
    keep: Annotated[float, Field(ge=0.0, le=1.0)] | tuple[str, ...] = 0.25
    """Operators left in float (in 8 bits where others have 4): by name, or the largest share of the products that may
    be, the worst ones first, until `max_disagreement` is met. Whatever has less than 0.5% of the products, as most
    heads do, stays in float either way."""
    max_disagreement: Annotated[float, Field(ge=0.0, le=1.0)] = 0.02
    """Share of the example windows' answers that may become others."""


def make(options: Options) -> Quantise:
    """Return the method.

    Raises:
        LubanError: the options don't go together.
    """
    if options.bits == 4 and options.how != "weights":
        raise LubanError(
            f"quantise: got bits: 4 with how: {options.how}, wanted how: weights",
            hint="activations are multiplied in 8 bits; set `how: weights` or `bits: 8`",
        )
    return Quantise(options)


class Quantise:
    """A graph whose products are quantised, but for those that can't bear it."""

    def __init__(self, options: Options) -> None:
        self.options = options

    def apply(self, graph: bytes, example: Encoded, run: Callable[[bytes], Any]) -> tuple[bytes, dict[str, Any]]:
        """Return the quantised graph and what became of it; see `luban.compress.GraphMethod`.

        The facts: `operators` quantised, `kept` in float by name, `disagreement` (share of the example's answers that
        became others), `noise` (mean squared change of a logit over its variance), `bytes_before`, `bytes_after`, and
        `sensitivity` (the noise of each operator alone), where it had to be measured.

        Raises:
            LubanError: there are no windows, there is nothing to quantise, or `keep` names no operator of the graph.
        """
        if not len(example):
            raise LubanError("quantise: got no example windows, wanted some to take ranges from", hint="give rows")
        batches = _batches(example, _WINDOWS)
        whole = _Answers(run(graph), batches)
        if self.options.how in ("fp16", "bf16"):
            small = integers.halved(Graph(graph), self.options.how)
            return small, {**self._facts(graph, small), **whole.compare(run(small))}
        work = Graph(graph)
        products = integers.products(work)
        if not products:
            raise LubanError(
                "quantise: the graph has no product with float weights; was it quantised before?",
                hint="name `quantise` once in a plan",
            )
        tables = integers.embeddings(work, self.options.embeddings) if self.options.embeddings else []
        found = _Search(self.options, work.serialised(), example, whole, run).best(products)
        facts = {"embeddings": self.options.embeddings if tables else 0, **self._facts(graph, found.graph)}
        return found.graph, {**facts, **found.facts}

    def _facts(self, before: bytes, after: bytes) -> dict[str, Any]:
        bits = {"fp16": 16, "bf16": 16}.get(self.options.how, self.options.bits)
        return {"how": self.options.how, "bits": bits, "bytes_before": len(before), "bytes_after": len(after)}


@dataclass(frozen=True)
class _Found:
    graph: bytes
    facts: dict[str, Any]


class _Search:
    """Quantises with one set of operators after the other left in float, until the answers stay."""

    def __init__(
        self, options: Options, graph: bytes, example: Encoded, whole: _Answers, run: Callable[[bytes], Any]
    ) -> None:
        self._options = options
        self._graph = graph
        self._example = example
        self._whole = whole
        self._run = run
        self._plans: dict[str, integers.Plan] = {}
        if options.how != "weights":
            seen = integers.observe(graph, _batches(example, _WINDOWS))
            self._plans = integers.plan(Graph(graph), seen, options)

    def best(self, products: Sequence[integers.Product]) -> _Found:
        total = sum(product.size for product in products)
        names = {product.name for product in products}
        small = {product.name for product in products if product.size < _NOTHING_TO_GAIN * total}
        if isinstance(self._options.keep, tuple):
            if alien := sorted(set(self._options.keep) - names):
                raise LubanError(
                    f"quantise: keep names {alien[0]!r}, which is no operator of the graph",
                    hint=f"its operators are {', '.join(sorted(names))}",
                )
            return self._tried(products, small | set(self._options.keep), {})
        best = self._tried(products, small, {})
        if best.facts["disagreement"] <= self._options.max_disagreement or not self._options.keep:
            return best
        noise = self._alone(product for product in products if product.name not in small)
        told = {name: float(f"{value:.3g}") for name, value in sorted(noise.items(), key=lambda item: -item[1])}
        sizes = {product.name: product.size for product in products}
        kept, left = set(small), self._options.keep * total
        for name in sorted(noise, key=lambda name: (-noise[name] / sizes[name], name)):
            if sizes[name] > left:
                continue
            left -= sizes[name]
            kept.add(name)
            best = self._tried(products, kept, told)
            if best.facts["disagreement"] <= self._options.max_disagreement:
                break
        return best

    def _alone(self, products: Iterable[integers.Product]) -> dict[str, float]:
        """Return the noise of each operator when it alone is quantised.

        Errors of operators are nearly independent and add up, so that this is what leaving one in float spares.
        """
        whole = _Answers(self._run(self._graph), _batches(self._example, _FEW_WINDOWS))
        return {
            product.name: whole.compare(self._run(self._quantised([product.name], [])))["noise"] for product in products
        }

    def _tried(self, products: Sequence[integers.Product], kept: set[str], told: dict[str, float]) -> _Found:
        chosen = [product.name for product in products if product.name not in kept]
        small = self._quantised(chosen, kept)
        facts = {"operators": len(chosen), "kept": sorted(kept), **self._whole.compare(self._run(small))}
        return _Found(small, {**facts, "sensitivity": told} if told else facts)

    def _quantised(self, chosen: Sequence[str], kept: Collection[str]) -> bytes:
        work = Graph(self._graph)
        if self._options.how != "weights":
            integers.quantise(work, chosen, self._plans, self._options)
            return work.serialised()
        if self._options.bits == 4 and kept:
            integers.quantise_weights(work, kept, 8, self._options.block)
        integers.quantise_weights(work, chosen, self._options.bits, self._options.block)
        return work.serialised()


class _Answers:
    """The logits of the graph as it was, and how far others are from them."""

    def __init__(self, runner: Any, batches: Sequence[dict[str, np.ndarray]]) -> None:
        self._batches = batches
        self._wanted = self._logits(runner)

    def compare(self, runner: Any) -> dict[str, float]:
        """Return the disagreement and the noise of another runner."""
        got, wanted = self._logits(runner), self._wanted
        noise = float(np.square(got - wanted).mean() / max(float(wanted.var()), 1e-12))
        disagreement = float((got.argmax(1) != wanted.argmax(1)).mean())
        return {"disagreement": disagreement, "noise": float(f"{noise:.3g}")}

    def _logits(self, runner: Any) -> np.ndarray:
        """Return (A, K), for A windows, or tokens where the task answers these."""
        found = []
        for batch in self._batches:
            logits = runner.run(batch["input_ids"], batch["attention_mask"])
            found.append(logits[batch["attention_mask"] > 0] if logits.ndim == 3 else logits)
        return np.concatenate(found).astype(np.float64)


def _batches(example: Encoded, n_windows: int) -> list[dict[str, np.ndarray]]:
    """Return padded batches of windows of all lengths."""
    ordered = np.argsort(example.lengths, kind="stable")
    chosen = np.unique(ordered[np.linspace(0, len(ordered) - 1, min(n_windows, len(ordered))).round().astype(int)])
    return [pad(example, windows, 0) for windows in cut_to_budget(chosen, example.lengths, _BATCH_TOKENS)]
