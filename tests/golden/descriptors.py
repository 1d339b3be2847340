"""Makes `descriptors.json` of the `.proto` files with protoc: run it by `make protocols`."""

from __future__ import annotations

import tempfile
from pathlib import Path

PROTOCOLS = Path(__file__).resolve().parents[2] / "src" / "luban" / "serve" / "protocols"


def made() -> str:
    """Return what should stand in `descriptors.json`."""
    from google.protobuf import descriptor_pb2, json_format
    from grpc_tools import protoc

    names = sorted(path.name for path in PROTOCOLS.glob("*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "descriptors"
        arguments = ["protoc", f"--proto_path={PROTOCOLS}", f"--descriptor_set_out={out}", *names]
        if protoc.main(arguments):
            raise SystemExit("protoc refuses the files")
        found = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())
    return json_format.MessageToJson(found, indent=1) + "\n"


if __name__ == "__main__":
    (PROTOCOLS / "descriptors.json").write_text(made(), "utf-8")
