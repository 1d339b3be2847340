"""The training loop: the only one, a generator of `Step`. Whoever runs it saves, prints and stops.

Legend: B windows in a pass, L tokens in the longest of them. One step is one or more passes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from luban.errors import Diverged, OutOfMemory
from luban.models.heads import TaskModel
from luban.models.windows import IGNORED, cut_to_budget, pad, token_places
from luban.objectives import Objective, TaskLoss, total
from luban.project.schema import TrainSection
from luban.records import Encoded, Step
from luban.tasks import Task
from luban.train import dropout, optimise, resume
from luban.train.batching import plan_epoch
from luban.train.forward import batches
from luban.train.watch import LossWatch, judge
from luban.train.weights import class_weights

AFTER_DIVERGENCE = 0.3
"""What the rates are multiplied by after going back to the last good state."""
SPEED_OVER_STEPS = 20


class Training:
    """One training run over encoded rows; `steps()` goes on from where an earlier run of it was stopped."""

    def __init__(
        self,
        model: TaskModel,
        task: Task,
        rows: Encoded,
        settings: TrainSection,
        *,
        layers: Sequence[nn.Module],
        embeddings: nn.Module,
        pad_id: int,
        folder: Path,
        plan: str,
        measure: Callable[[TaskModel], Mapping[str, float]],
        keep: Callable[[TaskModel], None],
        objectives: Sequence[Objective] = (),
    ) -> None:
        """Store what the run is made of.

        Args:
            model: with its dropout set, its adapter attached and its head started.
            task: gives the loss.
            rows: windows with targets.
            settings: the project's `train` section.
            layers: the body's layers, lowest first.
            embeddings: the body's embeddings.
            pad_id: token id of padding.
            folder: where states for resuming are kept.
            plan: digest of all that decides the steps; a state of another plan is not resumed.
            measure: returns validation scores; called with the model in evaluation mode.
            keep: called whenever the scores are the best so far, to save the model.
            objectives: change the loss, one after the other.
        """
        from accelerate import Accelerator

        self.model, self.task, self.rows, self.settings = model, task, rows, settings
        self.pad_id, self.folder, self.plan = pad_id, folder, plan
        self.measure, self.keep, self.objectives = measure, keep, tuple(objectives)
        self.accelerator = Accelerator(cpu=settings.device == "cpu", mixed_precision="no")
        self.device = self.accelerator.device
        optimise.freeze(model.body, embeddings, layers, settings)
        self.noise = dropout.install(model, model.body) if self.device.type == "cpu" else None
        weights = class_weights(rows, task, settings.class_weights)
        self.weights = None if weights is None else torch.tensor(weights, device=self.device)
        parameter_groups = optimise.groups(model.body, model.head, layers, settings)
        self.prepared, self.optimizer = self.accelerator.prepare(model, optimise.make(settings, parameter_groups))
        trained = [p for p in model.parameters() if p.requires_grad]
        self.trained = trained
        self.average = optimise.Average(trained, settings.ema) if settings.ema else None
        self.steps_per_epoch = math.ceil(len(rows) / settings.batch_size)
        self.n_steps = max(1, round(self.steps_per_epoch * settings.epochs))
        self.best: dict[str, float] = {}
        """Validation scores of the model that is kept, as far as it was measured by this process."""

    def steps(self) -> Iterator[Step]:
        """Train, yielding each step after it is done.

        Raises:
            Diverged: the loss went wrong a second time, after going back with a lower rate.
            OutOfMemory: the machine has too little memory for a pass.
        """
        place = self._resume()
        if place.step == 0:
            if place.best is None:
                place = self._measure(place)[0]
                assert place.best is not None
                # The start is kept unless a step is at least as good: of equal ones, the later has learned more.
                place = replace(place, best=math.nextafter(place.best, -math.inf))
            self._save(place)
        watch, recent = LossWatch(place.first_loss), _Speed()
        saved_at = time.monotonic()
        epoch, batches = -1, []
        note = f"goes on from step {place.step}" if place.step else ""
        while place.step < self.n_steps:
            if place.step // self.steps_per_epoch != epoch:
                epoch = place.step // self.steps_per_epoch
                batches = plan_epoch(self.rows.lengths, self.settings.batch_size, seed=self.settings.seed, epoch=epoch)
            windows = batches[place.step % self.steps_per_epoch]
            try:
                loss, grad_norm, rate = self._step(place, windows)
            except (torch.OutOfMemoryError, MemoryError) as error:
                raise OutOfMemory(
                    f"out of memory in a pass of at most {self.settings.batch_tokens} tokens",
                    hint="set train.batch_tokens lower; the result stays the same, but for rounding",
                ) from error
            if wrong := watch.wrong(loss, grad_norm):
                place, note = self._go_back(place, wrong)
                watch = LossWatch(place.first_loss)
                continue
            place = replace(place, step=place.step + 1, first_loss=watch.first_loss)
            recent.add(len(windows), int(self.rows.lengths[windows].sum()))
            scores, is_best = None, False
            if self._is_measured(place.step):
                place, scores, is_best = self._measure(place)
                self._save(place)
                saved_at = time.monotonic()
                recent.pause()
            elif time.monotonic() - saved_at > self.settings.save_every_s:
                self._save(place)
                saved_at = time.monotonic()
            stops = bool(self.settings.patience) and place.without_better >= self.settings.patience
            if stops:
                note = f"stopped early: {place.without_better} measurements without a better {self.settings.choose_by}"
            yield Step(
                step=place.step,
                n_steps=self.n_steps,
                epoch=place.step / self.steps_per_epoch,
                loss=loss,
                learning_rate=rate,
                grad_norm=grad_norm,
                examples_per_s=recent.examples_per_s,
                tokens_per_s=recent.tokens_per_s,
                left_s=0.0 if stops else recent.seconds_a_step * (self.n_steps - place.step),
                scores=scores,
                is_best=is_best,
                note=note,
            )
            note = ""
            if stops:
                return

    def _step(self, place: resume.Place, windows: np.ndarray) -> tuple[float, float, float]:
        """Take one optimiser step and return its loss, the gradient's norm before clipping, and the base's rate."""
        rate = optimise.rate_at(place.step, self.n_steps, self.settings) * place.rate_scale
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * rate * group["scale"]
        torch.manual_seed(self.settings.seed * 1_000_003 + place.step)
        if self.noise is not None:
            self.noise.begin(self.settings.seed, place.step)
        self.model.train()
        mine = windows[self.accelerator.process_index :: self.accelerator.num_processes]
        parts = cut_to_budget(mine, self.rows.lengths, self.settings.batch_tokens)
        passes = [{**pad(self.rows, part, self.pad_id), "windows": part} for part in parts]
        counts = [_n_targets(batch["targets"]) for batch in passes]
        total = 0.0
        for batch, count in zip(passes, counts, strict=True):
            share = count / max(1, sum(counts))
            loss = self._loss({name: torch.from_numpy(array).to(self.device) for name, array in batch.items()})
            self.accelerator.backward(loss * share)
            total += loss.item() * share
        grad_norm = float(self.accelerator.clip_grad_norm_(self.trained, self.settings.max_grad_norm))
        if math.isfinite(total) and math.isfinite(grad_norm):
            self.optimizer.step()
            if self.average is not None:
                self.average.update(place.step + 1)
        self.optimizer.zero_grad()
        return total, grad_norm, self.settings.learning_rate * rate

    def _loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the loss (a scalar) of one pass over input_ids, attention_mask (B, L), targets and windows (B,)."""

        def run(part: dict[str, torch.Tensor]) -> torch.Tensor:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16"):
                logits: torch.Tensor = self.prepared(part["input_ids"], part["attention_mask"])
            return logits.float()

        task_loss = TaskLoss(self.task, self.model.head, self.weights, self.settings.label_smoothing)
        return total(self.objectives, run, batch, run(batch), task_loss)

    def _is_measured(self, step: int) -> bool:
        """Tell whether a measurement is due: every so many epochs, and at the end."""
        interval = self.settings.evaluate_every * self.steps_per_epoch
        return step == self.n_steps or math.floor(step / interval) > math.floor((step - 1) / interval)

    def _measure(self, place: resume.Place) -> tuple[resume.Place, dict[str, float], bool]:
        """Measure on validation rows, with the averaged weights where there are any, and keep what is best."""
        if self.average is not None:
            self.average.swap()
        self.model.eval()
        scores = dict(self.measure(self.model))
        place, is_best = judge(place, scores, self.settings.choose_by)
        if is_best:
            self.best = scores
            if self.accelerator.is_main_process:
                self.keep(self.model)
        if self.average is not None:
            self.average.swap()
        return place, scores, is_best

    def _resume(self) -> resume.Place:
        state = resume.newest(self.folder, self.plan)
        return resume.Place() if state is None else resume.load(state, self.model, self._bare_optimizer(), self.average)

    def _save(self, place: resume.Place) -> None:
        if self.accelerator.is_main_process:
            resume.save(self.folder, place, self.model, self._bare_optimizer(), self.average, self.plan)

    def _bare_optimizer(self) -> torch.optim.Optimizer:
        bare: torch.optim.Optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        return bare

    def _go_back(self, place: resume.Place, wrong: str) -> tuple[resume.Place, str]:
        """Return to the last good state with lower rates; a second time it is given up."""
        state = resume.newest(self.folder, self.plan)
        if state is None or place.rate_scale < 1.0:
            raise Diverged(
                f"training diverged at step {place.step + 1}: {wrong}",
                hint=f"set train.learning_rate below {self.settings.learning_rate * place.rate_scale:.1e}"
                + (", or train.precision to fp32" if self.settings.precision == "bf16" else ""),
            )
        at = place.step + 1
        place = resume.load(state, self.model, self._bare_optimizer(), self.average)
        place = replace(place, rate_scale=AFTER_DIVERGENCE)
        self._save(place)
        return place, f"at step {at} {wrong}: went back to step {place.step}, rates times {AFTER_DIVERGENCE}"


class _Speed:
    """Speed over the last steps."""

    def __init__(self) -> None:
        self._marks: list[tuple[float, int, int]] = [(time.monotonic(), 0, 0)]

    def add(self, n_examples: int, n_tokens: int) -> None:
        _, examples, tokens = self._marks[-1]
        self._marks.append((time.monotonic(), examples + n_examples, tokens + n_tokens))
        del self._marks[: -SPEED_OVER_STEPS - 1]

    def pause(self) -> None:
        """Leave out the time since the last step: it went into measuring and saving."""
        gap = time.monotonic() - self._marks[-1][0]
        self._marks = [(at + gap, examples, tokens) for at, examples, tokens in self._marks]

    def _over(self, column: int) -> float:
        first, last = self._marks[0], self._marks[-1]
        return (last[column] - first[column]) / max(last[0] - first[0], 1e-9)

    @property
    def examples_per_s(self) -> float:
        return self._over(1)

    @property
    def tokens_per_s(self) -> float:
        return self._over(2)

    @property
    def seconds_a_step(self) -> float:
        return (self._marks[-1][0] - self._marks[0][0]) / max(1, len(self._marks) - 1)


def _n_targets(targets: np.ndarray) -> int:
    """Return how many answers a pass is asked for: windows, or tokens that have a target."""
    return int((targets != IGNORED).sum()) if targets.dtype == np.int64 and targets.ndim == 2 else len(targets)


def logits_of(model: nn.Module, rows: Encoded, task: Task, settings: TrainSection, pad_id: int) -> np.ndarray:
    """Return the model's logits for all windows, (W, K), or for all tokens, (T, K), without padding."""
    device = next(model.parameters()).device
    n = len(rows.ids) if task.per_token else len(rows)
    out = np.zeros((n, task.n_outputs), np.float32)
    bf16 = settings.precision == "bf16"
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        for windows, ids, mask in batches(rows, pad_id=pad_id, max_tokens=settings.batch_tokens, device=device):
            logits = model(ids, mask).float().cpu().numpy()
            if task.per_token:
                places, real = token_places(rows, windows)
                out[places[real]] = logits[real]
            else:
                out[windows] = logits
    return out
