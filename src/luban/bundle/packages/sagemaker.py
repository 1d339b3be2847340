"""Amazon SageMaker: `model.tar.gz` with the bundle, and code that SageMaker's inference toolkit calls.

The archive holds Luban itself beside the code, and pins what it needs: an endpoint answers by what was proven here, and
fetches nothing by a name that could be another's.
"""

from __future__ import annotations

import gzip
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from luban import files
from luban.bundle import answering, own
from luban.bundle.packages import Source, rendered
from luban.errors import LubanError

ARCHIVE = "model.tar.gz"
LAID_OUT = "model"
"""What becomes the archive, until it is proven."""
_CODE = Path(__file__).with_name("inference.py.txt")
_DECIMALS = 1e-6
"""The code gives probabilities so far."""
_LEVEL = 1
"""Weights hardly get smaller by packing harder, and it takes minutes."""


def write(source: Source, folder: Path) -> None:
    """Lay out what the archive will hold, in `model/`: the bundle, the code, Luban, and what to install.

    Raises:
        LubanError: Luban is not installed as a package here, so that what it needs isn't known.
    """
    code = folder / LAID_OUT / "code"
    shutil.copytree(source.folder, folder / LAID_OUT / "bundle")
    own.copy(code / "luban")
    shutil.copyfile(_CODE, code / "inference.py")
    files.write_text(code / "requirements.txt", "\n".join(own.requirements(source.runtime)) + "\n")


def prove(source: Source, folder: Path, rows: Sequence[Any], max_difference: float) -> Mapping[str, Any]:
    """Call the four functions in a process that finds Luban beside them alone, then pack what was proven."""
    expression = (
        "(lambda engine: [it.HOME, json.loads(it.output_fn(it.predict_fn(it.input_fn(sys.stdin.read(), it.JSON), "
        "engine), it.JSON))['predictions']])(it.model_fn(sys.argv[1] + '/..'))"
    )
    code = (folder / LAID_OUT / "code").resolve()
    home, answers = answering.run(code, "inference", expression, {"texts": list(rows)})
    if Path(home) != code / "luban":
        raise LubanError(f"the archive's code took Luban from {home}", hint="please report this")
    wanted = source.engine.predict(rows)
    found = answering.compare_answers(wanted, answers, max_difference + _DECIMALS, "the code of the archive")
    pack(folder / LAID_OUT, folder / ARCHIVE)
    shutil.rmtree(folder / LAID_OUT)
    return found


def pack(folder: Path, archive: Path) -> None:
    """Write a folder's files as an archive: the same files give the same bytes, with no times and no owner."""
    with (
        archive.open("wb") as file,
        gzip.GzipFile("", "wb", _LEVEL, file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as made,
    ):
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            member = tarfile.TarInfo(path.relative_to(folder).as_posix())
            member.mode, member.size = 0o644, path.stat().st_size
            with path.open("rb") as part:
                made.addfile(member, part)


def readme(source: Source, proof: Mapping[str, Any]) -> str:
    """Return how to deploy it, and what its requests and responses are."""
    engine = source.engine
    return rendered(
        "sagemaker.md.jinja", name=engine.name, digest=engine.digest, labels=list(engine.labels), proof=proof,
        per_token=engine.task.per_token, many=bool(source.facts["task"]["options"].get("multi_label", False)),
        n_packages=len(own.requirements(source.runtime)), version=metadata.version("luban"),
    )  # fmt: skip
