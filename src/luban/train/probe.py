"""The linear probe: a logistic regression on the frozen base. A baseline, a judge of labels, and the start of the head.

Starting the head from the probe's weights keeps the base's features from being torn up by the gradients of a random
head (Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution").

Legend: N rows, W windows, T tokens, E examples of the probe (rows, or units), K outputs, D width of the base.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from luban.models.windows import token_places
from luban.records import Encoded

if TYPE_CHECKING:
    import torch

MAX_EXAMPLES = 50_000
"""Examples that a probe is fitted on, at most: more change a linear model little."""
PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0)
"""Inverse strengths of the penalty on weights that are tried, strongest first."""
START_PENALTY = 80.0
"""The head's first weights are fitted with at most this inverse penalty, divided by the number of examples.

It is stronger than what serves a probe best, since large weights hand the base large gradients: on validation rows of
one intent set of 10,000 rows, fine-tuning ended half a point higher than from the best probe, which began higher.
"""
FOLDS = 5
MAX_TOKENS = 8192
"""Padded tokens in one pass through the base."""


@dataclass(frozen=True)
class Probe:
    """A linear layer over the base's features."""

    weight: np.ndarray
    """(K, D) float32."""
    bias: np.ndarray
    """(K,) float32."""
    penalty: float
    """Inverse strength of the penalty on weights that it was fitted with."""

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Return (E, K) for features (E, D)."""
        return features @ self.weight.T + self.bias  # type: ignore[no-any-return]


def features(
    body: torch.nn.Module,
    rows: Encoded,
    *,
    pooling: str,
    per_token: bool,
    pad_id: int,
    bf16: bool = False,
    on_rows: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
    """Return what a frozen base makes of windows: (W, D) pooled, or (units' first tokens, D) where `per_token`.

    Args:
        body: the base.
        rows: W windows.
        pooling: `mean` or `cls`.
        per_token: one vector for every token at which a unit begins, in the order of the tokens.
        pad_id: token id of padding.
        bf16: use bf16 products.
        on_rows: told after each batch how many windows are done.
    """
    import torch

    from luban.models.heads import pool
    from luban.train.forward import batches

    body.eval()
    device = next(body.parameters()).device
    width = int(body.config.hidden_size)  # type: ignore[union-attr, arg-type]
    first = np.flatnonzero(rows.units >= 0) if rows.units is not None else np.arange(0)
    place = np.zeros(len(rows.ids), np.int64)
    place[first] = np.arange(len(first))
    out = np.zeros((len(first) if per_token else len(rows), width), np.float32)
    done = 0
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        for windows, ids, mask in batches(rows, pad_id=pad_id, max_tokens=MAX_TOKENS, device=device):
            hidden = body(input_ids=ids, attention_mask=mask).last_hidden_state.float()
            if per_token:
                assert rows.units is not None
                places, real = token_places(rows, windows)
                asked = real & (rows.units[places] >= 0)
                out[place[places[asked]]] = hidden.cpu().numpy()[asked]
            else:
                out[windows] = pool(hidden, mask, pooling).cpu().numpy()
            done += len(windows)
            on_rows(done)
    return out


def fit(x: np.ndarray, targets: np.ndarray, n_outputs: int, *, seed: int, penalty: float | None = None) -> Probe:
    """Fit the probe.

    Without a penalty, that is taken under which a probe of the other rows gives a held-out fifth its labels with the
    least surprise. A probe that is too free would know the training rows by heart, and leave fine-tuning nothing.

    Args:
        x: (E, D) features.
        targets: (E,) int64 classes, or (E, K) zeros and ones.
        n_outputs: K; classes that no example has get a small weight.
        seed: start of the random numbers that choose examples.
        penalty: inverse strength of the penalty on weights; None tries several.
    """
    from threadpoolctl import threadpool_limits

    if len(x) > MAX_EXAMPLES:
        chosen = np.sort(np.random.default_rng(seed).choice(len(x), MAX_EXAMPLES, replace=False))
        x, targets = x[chosen], targets[chosen]
    mean, spread = x.mean(0), x.std(0) + 1e-6
    scaled = ((x - mean) / spread).astype(np.float32)
    # One thread: the products are too small to share, and spinning threads would slow each other tenfold.
    with threadpool_limits(1):
        if penalty is None:
            penalty = _least_surprise(scaled, targets, n_outputs, seed)
        weight, bias = _weights(scaled, targets, n_outputs, penalty)
    weight = weight / spread
    return Probe(weight.astype(np.float32), (bias - weight @ mean).astype(np.float32), penalty)


def start(x: np.ndarray, targets: np.ndarray, n_outputs: int, *, seed: int, best: Probe) -> Probe:
    """Fit what a head starts from: as `fit`, and as `best` was, but with smaller weights (see `START_PENALTY`)."""
    penalty = START_PENALTY / max(1, min(len(x), MAX_EXAMPLES))
    return best if best.penalty <= penalty else fit(x, targets, n_outputs, seed=seed, penalty=penalty)


def out_of_fold(
    x: np.ndarray, targets: np.ndarray, n_outputs: int, *, seed: int, penalty: float | None = None
) -> np.ndarray:
    """Return logits (E, K) of each example by a probe that was fitted without it."""
    order = np.random.default_rng(seed).permutation(len(x))
    fold = np.zeros(len(x), np.int64)
    fold[order] = np.arange(len(x)) % FOLDS
    out = np.zeros((len(x), n_outputs), np.float32)
    for held in range(FOLDS):
        inside = fold == held
        if inside.any() and not inside.all():
            out[inside] = fit(x[~inside], targets[~inside], n_outputs, seed=seed, penalty=penalty).logits(x[inside])
    return out


def _least_surprise(x: np.ndarray, targets: np.ndarray, n_outputs: int, seed: int) -> float:
    """Return the penalty that serves a held-out fifth best."""
    if len(x) < 2 * FOLDS:
        return PENALTIES[0]
    held = np.random.default_rng(seed).permutation(len(x)) % FOLDS == 0
    surprises = []
    for penalty in PENALTIES:
        weight, bias = _weights(x[~held], targets[~held], n_outputs, penalty)
        surprises.append(_surprise(x[held] @ weight.T + bias, targets[held]))
        if surprises[-1] > min(surprises):
            break  # the surprise falls, then rises
    return PENALTIES[int(np.argmin(surprises))]


def _surprise(logits: np.ndarray, targets: np.ndarray) -> float:
    """Return the mean negative log-probability of targets, (E,) classes or (E, K) zeros and ones."""
    if targets.ndim == 2:
        return float(np.logaddexp(0, np.where(targets > 0.5, -logits, logits)).mean())
    top = logits.max(1, keepdims=True)
    total = np.log(np.exp(logits - top).sum(1)) + top[:, 0]
    return float((total - logits[np.arange(len(logits)), targets]).mean())


def _weights(x: np.ndarray, targets: np.ndarray, n_outputs: int, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """Return weights (K, D) and biases (K,) in the scale of x."""
    if targets.ndim == 1:
        return _multinomial(x, targets, n_outputs, penalty)
    parts = [_binary(x, targets[:, k], penalty) for k in range(n_outputs)]
    return np.stack([weight for weight, _ in parts]), np.array([bias for _, bias in parts])


def _multinomial(x: np.ndarray, targets: np.ndarray, n_outputs: int, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    weight, bias = np.zeros((n_outputs, x.shape[1])), np.full(n_outputs, -10.0)
    present = np.unique(targets)
    if len(present) == 1:
        bias[present] = 0.0
        return weight, bias
    model = _regression(penalty).fit(x, targets)
    if len(present) == 2:  # the library keeps one row for two classes
        weight[present] = np.stack([-model.coef_[0] / 2, model.coef_[0] / 2])
        bias[present] = [-model.intercept_[0] / 2, model.intercept_[0] / 2]
    else:
        weight[present], bias[present] = model.coef_, model.intercept_
    return weight, bias


def _binary(x: np.ndarray, targets: np.ndarray, penalty: float) -> tuple[np.ndarray, float]:
    if targets.min() == targets.max():
        return np.zeros(x.shape[1]), 4.0 if targets.max() else -4.0
    model = _regression(penalty).fit(x, targets > 0.5)
    return model.coef_[0], float(model.intercept_[0])


def _regression(penalty: float) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    warnings.simplefilter("ignore", ConvergenceWarning)  # a probe need not be at the optimum's last digit
    return LogisticRegression(C=penalty, max_iter=60, tol=1e-3)
