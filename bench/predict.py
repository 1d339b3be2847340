"""How fast are answers? Luban's engine, in fp32 and in int8, beside other ways to run the same model on a CPU.

    python bench/predict.py --rows test.jsonl --train train.jsonl --run runs/NAME    # speed and accuracy, all peers
    python bench/predict.py ... --compressed runs/NAME/compressed                    # and what `luban compress` chose
    python bench/predict.py --rows texts.jsonl --peers pipeline                      # speed alone, an untrained head
    python bench/predict.py --rows texts.jsonl --peers pipeline --memory 1000000     # memory too, takes long
    python bench/predict.py --smoke                                                  # a quick pass on made-up rows

Rows are JSON lines with `text`, and `label` where answers are to be judged; ranges of int8 activations are taken from
`--train` alone. Every side computes the same function: the run's body and head, or the base's body with an untrained
head. All keep their model loaded and answer the same segments in turn, so that what else the machine does strikes all
alike. Peers other than transformers' `pipeline` are installed from PyPI into environments of their own, kept below
`~/.cache/luban/bench`.

Reach: 10x the pipeline's rows a second; 1.3x the best of the others whose accuracy is at most 0.3 points below ours;
memory at 1,000,000 rows within 20% of that at 10,000. Prints ratios, writes JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

OURS = ("luban", "luban-int8")
MAIN, SMALLER = "luban-int8", "luban-compressed"
PACKAGES = {
    "pipeline": (),
    "optimum": ("optimum-onnx[onnxruntime]==0.1.0", "transformers<5", "torch==2.13.0"),
    "sentence-transformers": ("sentence-transformers[onnx]>=5", "transformers<5", "torch==2.13.0"),
    "openvino": ("openvino==2026.4.1", "tokenizers", "numpy"),
    "openvino-int8": (),
    "ctranslate2": ("ctranslate2>=4.6", "transformers<5", "torch==2.13.0"),
}
"""What each peer needs; `pipeline` runs beside Luban, `openvino-int8` is openvino on Luban's int8 graph."""
HOMES = {"openvino-int8": "openvino"}
WINDOW = 128
N_LABELS = 77
BATCH = 32
EQUAL = 0.003
"""Accuracy lost by which a peer still counts as equal."""
Answer = Callable[[list[str]], Any]


def main() -> None:
    """Parse, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=Path)
    parser.add_argument(
        "--train", type=Path, help="rows that int8 ranges are taken from; the first of --rows if absent"
    )
    parser.add_argument("--run", type=Path, help="a finished run, whose checkpoint is used")
    parser.add_argument(
        "--compressed", type=Path, help="a bundle that `luban compress` made of the run, as one more side"
    )
    parser.add_argument("--base", default="minilm-l6", help="the body, where no run is given")
    parser.add_argument("--peers", nargs="*", choices=tuple(PACKAGES), default=list(PACKAGES))
    parser.add_argument("--n", type=int, default=10_000, help="rows answered by each side")
    parser.add_argument("--segments", type=int, default=10)
    parser.add_argument("--threads", type=int, default=0, help="0 uses every core")
    parser.add_argument("--memory", type=int, default=0, help="rows of the long file whose memory is measured")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("bench/results/predict.json"))
    parser.add_argument("--worker", choices=(*OURS, SMALLER, *PACKAGES, "memory"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker == "memory":
        print(json.dumps(memory_of(args.folder, args.rows)))
    elif args.worker:
        work(args)
    else:
        with tempfile.TemporaryDirectory() as folder:
            measure(args, Path(folder))


def measure(args: argparse.Namespace, folder: Path) -> None:
    """Make the models, let all sides answer in turn, then print the table and write it as JSON."""
    if args.smoke or args.rows is None:
        args.rows = made_up(folder / "rows.jsonl", 600)
        args.n, args.segments, args.memory = 600, 2, args.memory or 3000
        args.peers = ["pipeline"] if args.smoke else args.peers
    rows = read(args.rows)[: args.n]
    if args.run and not args.train:
        raise SystemExit("give --train too: ranges are taken from training rows, never from those that are judged")
    make_models(folder, "tiny" if args.smoke else args.base, args.train or args.rows, run=args.run)
    methods = [*OURS, *([SMALLER] if args.compressed else []), *args.peers]
    workers = {method: Worker(args, method, folder) for method in methods}
    for worker in workers.values():
        worker.answer(0, min(200, len(rows)))
    times: dict[str, list[dict[str, float]]] = {method: [] for method in methods}
    answers: dict[str, list[int]] = {method: [] for method in methods}
    edges = [round(len(rows) * part / args.segments) for part in range(args.segments + 1)]
    for begin, end in itertools.pairwise(edges):
        for method, worker in workers.items():
            told_by = worker.answer(begin, end)
            answers[method] += told_by.pop("answers")
            times[method].append({**told_by, "rows": end - begin})
            rate = (end - begin) / told_by["wall_s"]
            print(f"rows {begin:6d}..{end:<6d} {method:22s} {rate:8.1f} rows/s", flush=True)
    found = table(times, answers, [row.get("label") for row in rows], labels_of(folder))
    found["versions"] = {method: worker.versions for method, worker in workers.items()}
    for worker in workers.values():
        worker.close()
    if args.memory:
        found["memory"] = memory(folder, args.rows, args.memory, len(rows))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(found, indent=2) + "\n")


def table(
    times: dict[str, list[dict[str, float]]], answers: dict[str, list[int]], gold: list[Any], labels: list[str]
) -> dict[str, Any]:
    """Print the table and return it: rates by the clock, and by processor time, which a busy machine changes less."""
    found: dict[str, Any] = {}
    judged = all(label in labels for label in gold)
    heads = f"{'rows/s':>9s} {MAIN:>11s}   {'rows per CPU s':>14s} {MAIN:>11s}   {'as fp32':>8s} {'accuracy':>9s}"
    print(f"\n{'':22s} {heads}")
    for method, segments in times.items():
        row: dict[str, Any] = {"segments": segments}
        for clock in ("wall_s", "cpu_s"):
            rates = [segment["rows"] / segment[clock] for segment in segments]
            ours = [segment["rows"] / segment[clock] for segment in times[MAIN]]
            ratios = [mine / theirs for mine, theirs in zip(ours, rates, strict=True)]
            spread = [min(ratios), max(ratios)]
            row[clock] = {"rows_per_s": statistics.median(rates), "ratio": statistics.median(ratios), "spread": spread}
        pairs = list(zip(answers[method], answers[OURS[0]], strict=True))
        row["agreement"] = sum(one == other for one, other in pairs) / len(pairs)
        if judged:
            right = [labels[place] == label for place, label in zip(answers[method], gold, strict=True)]
            row["accuracy"] = sum(right) / len(right)
        found[method] = row
        wall, cpu = row["wall_s"], row["cpu_s"]
        print(
            f"{method:22s} {wall['rows_per_s']:9.1f} {wall['ratio']:10.2f}x   {cpu['rows_per_s']:14.1f} "
            f"{cpu['ratio']:10.2f}x   {row['agreement']:8.2%} "
            + (f"{row['accuracy']:9.4f}" if judged else f"{'-':>9s}")
        )
    measure_by = "accuracy" if judged else "agreement"
    others = [method for method in times if method not in (*OURS, SMALLER, "pipeline", "openvino-int8")]
    equal = [method for method in others if found[method][measure_by] >= found[MAIN][measure_by] - EQUAL]
    if equal:
        best = min(equal, key=lambda method: found[method]["wall_s"]["ratio"])
        found["best_equal_peer"] = best
        print(f"the best of the others at equal {measure_by} is {best}: {found[best]['wall_s']['ratio']:.2f}x")
    return found


class Worker:
    """One side, in a process of its own, that answers rows when it is told which."""

    def __init__(self, args: argparse.Namespace, method: str, folder: Path) -> None:
        command = [
            str(python_of(method)), __file__, "--worker", method, "--folder", str(folder), "--rows", str(args.rows),
            "--threads", str(args.threads), *(["--compressed", str(args.compressed)] if method == SMALLER else []),
        ]  # fmt: skip
        environment = {**os.environ, "TOKENIZERS_PARALLELISM": "true"}
        if args.threads:
            environment |= {name: str(args.threads) for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS")}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": environment, "text": True}
        self._process = subprocess.Popen(command, **pipes)
        self.versions = self._read()  # told when the model is loaded

    def answer(self, begin: int, end: int) -> dict[str, Any]:
        """Have rows answered; return seconds by the clock and of the processor, and the answers, places of labels."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{begin} {end}\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                found: dict[str, Any] = json.loads(line)
                return found
        raise SystemExit("a worker ended early; its error stands above")


def python_of(method: str) -> Path:
    """Return the Python of a peer's own environment, or this one's where it needs no package."""
    home = HOMES.get(method, method)
    packages = PACKAGES.get(home, ())
    return own_python(home, packages) if packages else Path(sys.executable)


def own_python(home: str, packages: Sequence[str], *, shared: bool = False) -> Path:
    """Return the Python of an environment below `~/.cache/luban/bench`, made and filled where it is not there yet.

    Args:
        home: its name.
        packages: what pip installs.
        shared: what is not installed there, such as torch, is that of the running environment.
    """
    folder = Path("~/.cache/luban/bench").expanduser() / home
    python, ready = folder / "bin" / "python", folder / "ready.json"
    if not ready.exists() or json.loads(ready.read_text()) != list(packages):
        print(f"installing {', '.join(packages)} into {folder} ...", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        if shared:
            own = next(folder.glob("lib/python*/site-packages"))
            (own / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
        subprocess.run(install, check=True)
        ready.write_text(json.dumps(list(packages)))
    return python


def work(args: argparse.Namespace) -> None:
    """Load one side, then answer what stdin asks for."""
    texts = [row["text"] for row in read(args.rows)]
    openers = {
        "luban": open_luban, "luban-int8": open_luban, SMALLER: open_luban,
        "pipeline": open_pipeline, "optimum": open_optimum,
        "sentence-transformers": open_sentence_transformers, "openvino": open_openvino,
        "openvino-int8": open_openvino, "ctranslate2": open_ctranslate2,
    }  # fmt: skip
    answer: Answer = openers[args.worker](args)
    print(json.dumps(versions()), flush=True)
    for line in sys.stdin:
        begin, end = map(int, line.split())
        rows = texts[begin:end]
        wall, cpu = time.perf_counter(), time.process_time()
        found = answer(rows)
        seconds = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
        assert len(found) == len(rows)
        print(json.dumps({**seconds, "answers": [int(label) for label in found]}), flush=True)


def open_luban(args: argparse.Namespace) -> Answer:
    """Return Luban's engine."""
    import luban

    bundles = {"luban": args.folder / "bundle", "luban-int8": args.folder / "int8", SMALLER: args.compressed}
    engine = luban.load(bundles[args.worker], threads=args.threads)
    places = {label: place for place, label in enumerate(engine.labels)}
    return lambda rows: [places[prediction.label] for prediction in engine.predict(rows)]


def open_pipeline(args: argparse.Namespace) -> Answer:
    """Return transformers' pipeline, with batches of 32."""
    import torch
    import transformers
    from transformers.modeling_outputs import SequenceClassifierOutput

    transformers.logging.set_verbosity(50)  # it remarks on a class that it does not know
    if args.threads:
        torch.set_num_threads(args.threads)
    facts, weight, bias = head_of(args.folder)

    class Classifier(transformers.PreTrainedModel):
        """The body with the same head as all have."""

        _supports_sdpa = True

        def __init__(self, body: Any) -> None:
            super().__init__(body.config)
            self.body = body
            self.output = torch.nn.Linear(weight.shape[1], len(weight))
            self.output.weight.data, self.output.bias.data = torch.from_numpy(weight), torch.from_numpy(bias)

        def forward(self, input_ids: Any, attention_mask: Any, **_: Any) -> Any:
            hidden = self.body(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
            pooled = hidden[:, 0] if facts["pooling"] == "cls" else (hidden * mask).sum(1) / mask.sum(1)
            return SequenceClassifierOutput(logits=self.output(pooled))

    body = transformers.AutoModel.from_pretrained(args.folder / "peer")
    body.config.id2label = {place: str(place) for place in range(len(weight))}
    body.config.num_labels = len(weight)
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.folder / "peer")
    pipe = transformers.pipeline(
        "text-classification", model=Classifier(body).eval(), tokenizer=tokenizer, batch_size=BATCH, device="cpu"
    )

    def answer(rows: list[str]) -> list[int]:
        given = [facts["prefix"] + row for row in rows]
        return [int(found["label"]) for found in pipe(given, truncation=True, max_length=facts["window"])]

    return answer


def open_optimum(args: argparse.Namespace) -> Answer:
    """Return optimum's pipeline on the graph, quantised as its documentation shows for this processor.

    But for the head, which is left in float: with it in int8, accuracy falls by a quarter and more.
    """
    import onnx
    from onnxruntime import SessionOptions
    from optimum.onnxruntime import ORTModelForSequenceClassification, ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig
    from transformers import AutoTokenizer, pipeline

    facts, _, _ = head_of(args.folder)
    source, small = args.folder / "exported", args.folder / "optimum"
    settings = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=True)
    nodes = onnx.load(source / "model.onnx").graph.node
    heads = [node.name for node in nodes if node.op_type == "Gemm"]
    settings.nodes_to_exclude = [*heads, *(f"{name}_MatMul" for name in heads)]  # it calls them so as it goes
    ORTQuantizer.from_pretrained(source, file_name="model.onnx").quantize(settings, small)
    options = SessionOptions()
    options.intra_op_num_threads = args.threads
    model = ORTModelForSequenceClassification.from_pretrained(
        small, file_name="model_quantized.onnx", session_options=options
    )
    tokenizer = AutoTokenizer.from_pretrained(args.folder / "peer")
    pipe = pipeline("text-classification", model=model, tokenizer=tokenizer, batch_size=BATCH)

    def answer(rows: list[str]) -> list[int]:
        given = sorted(range(len(rows)), key=lambda place: -len(rows[place]))  # what its users do against padding
        texts = [facts["prefix"] + rows[place] for place in given]
        found = pipe(texts, truncation=True, max_length=facts["window"])
        answers = [0] * len(rows)
        for place, one in zip(given, found, strict=True):
            answers[place] = int(one["label"].removeprefix("LABEL_"))
        return answers

    return answer


def open_sentence_transformers(args: argparse.Namespace) -> Answer:
    """Return sentence-transformers with its int8 ONNX export, and the head on its vectors."""
    import numpy as np
    from sentence_transformers import SentenceTransformer, export_dynamic_quantized_onnx_model, models

    facts, weight, bias = head_of(args.folder)
    peer, home = str(args.folder / "peer"), str(args.folder / "sentence-transformers")
    words = models.Transformer(peer, max_seq_length=facts["window"])
    pooling = models.Pooling(words.get_word_embedding_dimension(), pooling_mode=facts["pooling"])
    SentenceTransformer(modules=[words, pooling], device="cpu").save(home)
    whole = SentenceTransformer(home, backend="onnx", device="cpu")
    whole.save_pretrained(home)
    export_dynamic_quantized_onnx_model(whole, "avx512_vnni", home)
    given: dict[str, Any] = {"file_name": "onnx/model_qint8_avx512_vnni.onnx", "provider": "CPUExecutionProvider"}
    if args.threads:
        import onnxruntime

        given["session_options"] = onnxruntime.SessionOptions()
        given["session_options"].intra_op_num_threads = args.threads
    model = SentenceTransformer(home, backend="onnx", device="cpu", model_kwargs=given)

    def answer(rows: list[str]) -> Any:
        vectors = model.encode([facts["prefix"] + row for row in rows], batch_size=BATCH, show_progress_bar=False)
        return np.argmax(vectors @ weight.T + bias, axis=1)

    return answer


def open_openvino(args: argparse.Namespace) -> Answer:
    """Return OpenVINO as it comes, which takes bf16 where the processor has it, on the graph in float or in int8."""
    import numpy as np
    import openvino

    facts, _, _ = head_of(args.folder)
    graph = args.folder / ("exported" if args.worker == "openvino" else "int8") / "model.onnx"
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "THROUGHPUT"}
    if args.threads:
        settings["INFERENCE_NUM_THREADS"] = args.threads
    compiled = openvino.Core().compile_model(str(graph), "CPU", settings)
    tokenizer = tokenizer_of(args.folder, facts)
    found = np.zeros(0)

    def keep(request: Any, places: Any) -> None:
        found[places] = request.get_output_tensor(0).data.argmax(1)

    queue = openvino.AsyncInferQueue(compiled)
    queue.set_callback(keep)

    def answer(rows: list[str]) -> Any:
        nonlocal found
        found = np.zeros(len(rows), np.int64)
        for places, ids in batches(tokenizer, [facts["prefix"] + row for row in rows]):
            padded = np.full((len(ids), max(map(len, ids))), facts["pad_id"], np.int64)
            mask = np.zeros_like(padded)
            for place, tokens in enumerate(ids):
                padded[place, : len(tokens)], mask[place, : len(tokens)] = tokens, 1
            queue.start_async({"input_ids": padded, "attention_mask": mask}, places)
        queue.wait_all()
        return found

    return answer


def open_ctranslate2(args: argparse.Namespace) -> Answer:
    """Return CTranslate2's encoder in int8, and the head on what it gives."""
    import ctranslate2
    import numpy as np

    facts, weight, bias = head_of(args.folder)
    home = args.folder / "ctranslate2"
    ctranslate2.converters.TransformersConverter(str(args.folder / "peer")).convert(str(home), quantization="int8")
    encoder = ctranslate2.Encoder(str(home), device="cpu", intra_threads=args.threads)
    tokenizer = tokenizer_of(args.folder, facts)

    def answer(rows: list[str]) -> Any:
        found = np.zeros(len(rows), np.int64)
        for places, ids in batches(tokenizer, [facts["prefix"] + row for row in rows]):
            hidden = np.array(encoder.forward_batch(ids).last_hidden_state)
            lengths = np.array([len(tokens) for tokens in ids])
            real = (np.arange(hidden.shape[1])[None] < lengths[:, None])[..., None]
            pooled = hidden[:, 0] if facts["pooling"] == "cls" else (hidden * real).sum(1) / lengths[:, None]
            found[places] = (pooled @ weight.T + bias).argmax(1)
        return found

    return answer


def batches(tokenizer: Any, rows: list[str]) -> list[tuple[list[int], list[list[int]]]]:
    """Return batches of 32 by length: the places of rows and their tokens."""
    ids = [encoding.ids for encoding in tokenizer.encode_batch(rows)]
    ordered = sorted(range(len(ids)), key=lambda place: -len(ids[place]))
    cut = [ordered[begin : begin + BATCH] for begin in range(0, len(ordered), BATCH)]
    return [(places, [ids[place] for place in places]) for places in cut]


def tokenizer_of(folder: Path, facts: dict[str, Any]) -> Any:
    """Return the Rust tokeniser."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "peer" / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(facts["window"])
    return tokenizer


def head_of(folder: Path) -> tuple[dict[str, Any], Any, Any]:
    """Return what every side knows: facts, and the head's weights (K, width) and bias (K,)."""
    import numpy as np

    stored = np.load(folder / "head.npz")
    return json.loads((folder / "facts.json").read_text()), stored["weight"], stored["bias"]


def labels_of(folder: Path) -> list[str]:
    """Return the labels in the order of the outputs."""
    labels: list[str] = json.loads((folder / "facts.json").read_text())["labels"]
    return labels


def versions() -> dict[str, str]:
    """Return the versions of what decides a side's speed, where it is installed."""
    from importlib import metadata

    names = ("onnxruntime", "openvino", "ctranslate2", "torch", "transformers", "tokenizers", "optimum-onnx", "numpy")
    installed = {package.metadata["Name"]: package.version for package in metadata.distributions()}
    return {name: installed[name] for name in (*names, "sentence-transformers") if name in installed}


def make_models(folder: Path, base: str, rows: Path, *, run: Path | None = None) -> None:
    """Make the bundles `bundle` and `int8`, and what peers begin with: `peer`, `exported`, `head.npz`, `facts.json`.

    Args:
        folder: where they are put.
        base: as a project names it, or `tiny`; an untrained head is put on it.
        rows: JSON lines with `text`: the vocabulary of `tiny`, and what ranges of int8 activations are taken from.
        run: a finished run whose model is taken instead.
    """
    import numpy as np
    import torch

    from luban import files
    from luban.bundle import runtimes, seal
    from luban.bundle.engine import Engine
    from luban.bundle.runtimes import onnx
    from luban.compress import make as make_method
    from luban.models import base as bases
    from luban.models import checkpoint, tiny
    from luban.models.heads import TaskModel
    from luban.models.processor import Processor, ProcessorSettings
    from luban.project import lock
    from luban.project.schema import DataSection, Plugin, Project
    from luban.records import Calibration, Report
    from luban.tasks import make, make_head

    texts = [row["text"] for row in read(rows)]
    texts = texts[:: max(1, len(texts) // 256)]
    if run:
        model, parts = checkpoint.load(run / "checkpoint", make_head)
        labels, facts, processor = list(parts.task["labels"]), parts.base, parts.processor
    else:
        found = tiny.make(folder / "tiny", texts) if base == "tiny" else bases.find(base, Path())
        facts, labels = found.facts, [f"label {number}" for number in range(N_LABELS)]
        settings = ProcessorSettings(
            max_length=min(WINDOW, facts.max_length), prefix=facts.prefix, clean=("unicode", "control", "whitespace")
        )
        processor = Processor(settings, (found.folder / "tokenizer.json").read_text("utf-8"))
        torch.manual_seed(0)
        body: Any = bases.load_body(found)
        head = make("classify", {}, labels).head(body.config.hidden_size, dropout=0.0, pooling=facts.pooling)
        model = TaskModel(body, head)
    model.eval()
    task = make("classify", {}, labels)
    windows = task.encode(texts, processor)
    project = Project(name="bench", task=Plugin(kind="classify"), base=base, data=DataSection(train="rows.jsonl"))
    for name in ("bundle", "int8"):
        with files.new_folder(folder / f"{name}-graph") as aside:
            runtime = runtimes.write("onnx", model, aside, windows)
            if name == "int8":
                graph = aside / onnx.GRAPH
                small, _ = make_method(Plugin(kind="quantise")).apply(graph.read_bytes(), windows, onnx.runner)
                graph.write_bytes(small)
            runner = runtimes.open("onnx", aside, runtime)
            files.seal(aside, {"kind": "graph"})
        engine = Engine(name="bench", task=task, processor=processor, runner=runner, calibration=Calibration())
        seal.seal(
            folder / name, name="bench", task={"kind": "classify", "options": {}, "labels": labels, "facts": {}},
            base=facts, runtime=runtime, graph=folder / f"{name}-graph", processor=processor, calibration=Calibration(),
            report=Report("bench", "classify", {}, {}, {}, {}), reference=engine.reference(texts),
            project=lock.resolved(project),
        )  # fmt: skip
    head = model.head
    told = {"labels": labels, "window": processor.settings.max_length, "pooling": head.pooling,
            "prefix": processor.settings.prefix, "pad_id": processor.pad_id}  # fmt: skip
    (folder / "facts.json").write_text(json.dumps(told))
    np.savez(folder / "head.npz", weight=head.output.weight.detach().numpy(), bias=head.output.bias.detach().numpy())
    for_peers(folder, model, processor, len(labels))


def for_peers(folder: Path, model: Any, processor: Any, n_labels: int) -> None:
    """Write the body and the tokeniser as transformers has them, and the whole model as torch exports it."""
    import onnx
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    from luban.bundle.runtimes import onnx as runtime

    model.body.save_pretrained(folder / "peer")
    rust = Tokenizer.from_str(processor.tokenizer_json)
    rust.no_truncation()
    rust.no_padding()
    pad = rust.id_to_token(processor.pad_id)
    unknown = next((token for token in ("[UNK]", "<unk>") if rust.token_to_id(token) is not None), pad)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=rust, pad_token=pad, unk_token=unknown, model_max_length=processor.settings.max_length
    )
    tokenizer.save_pretrained(folder / "peer")
    rust.save(str(folder / "peer" / "tokenizer.json"))
    settings = folder / "peer" / "tokenizer_config.json"
    written = json.loads(settings.read_text())
    settings.write_text(json.dumps(written | {"tokenizer_class": "PreTrainedTokenizerFast"}))  # older ones' name for it
    exported = folder / "exported"
    exported.mkdir()
    graph = onnx.load_model_from_string(runtime.exported(model))
    del graph.graph.value_info[:]  # its shapes stop onnxruntime's quantiser
    onnx.save(graph, exported / "model.onnx")
    config = model.body.config.to_dict() | {"num_labels": n_labels}
    config["id2label"] = {place: f"LABEL_{place}" for place in range(n_labels)}
    config["label2id"] = {name: place for place, name in config["id2label"].items()}
    (exported / "config.json").write_text(json.dumps(config))


def read(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def made_up(path: Path, n_rows: int) -> Path:
    """Write short made-up texts."""
    chance = random.Random(0)
    words = ["where", "is", "my", "new", "card", "pay", "this", "bill", "late", "please", "转账", "退款", "什么时候"]
    texts = (" ".join(chance.choices(words, k=chance.randint(3, 25))) for _ in range(n_rows))
    path.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts), "utf-8")
    return path


def memory(folder: Path, rows: Path, n_long: int, n_short: int) -> dict[str, Any]:
    """Answer a short and a long file, each in a process of its own, and compare what they held at most."""
    lines = rows.read_text("utf-8").splitlines()
    found: dict[str, Any] = {}
    for name, n_rows in (("short", min(n_short, n_long)), ("long", n_long)):
        path = folder / f"{name}.jsonl"
        with path.open("w", encoding="utf-8") as file:
            file.writelines(f"{lines[number % len(lines)]}\n" for number in range(n_rows))
        command = [sys.executable, __file__, "--worker", "memory", "--folder", str(folder), "--rows", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[name] = json.loads(done.stdout)
        facts = found[name]
        rate = f"{facts['rows_per_s']:.0f} rows/s"
        print(f"file of {facts['rows']:>9,} rows: {facts['peak_mb']:7.1f} MB at the peak, {rate}")
    found["ratio"] = found["long"]["peak_mb"] / found["short"]["peak_mb"]
    print(f"memory of the long file: {found['ratio']:.3f} of the short one's")
    return found


def memory_of(folder: Path, rows: Path) -> dict[str, float]:
    """Answer a file and return what that held at most."""
    import luban
    from luban.bundle.batch import predict_file

    done = predict_file(luban.load(folder / "bundle"), rows, rows.with_suffix(".answers.jsonl"))
    return {"rows": done.rows, "rows_per_s": done.rows_per_s, "peak_mb": peak_mb()}


def peak_mb() -> float:
    """Return the most memory that this process held since it began to run this script."""
    import resource

    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the parent held at the fork, too
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


if __name__ == "__main__":
    main()
