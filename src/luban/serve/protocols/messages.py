"""Messages of gRPC, as classes out of `descriptors.json`, which `make protocols` makes of the `.proto` files beside it.

No generated code: that of one version of protobuf does not run with an older one, and these classes run with any. They
live in a pool of their own, so that a process may hold another package's copy of a protocol beside it.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from luban.errors import MissingExtra, install

DESCRIPTORS = Path(__file__).parent / "descriptors.json"
PREDICTOR = "luban.v1.Predictor"
INFERENCE = "inference.GRPCInferenceService"


@cache
def pool() -> Any:
    """Return the pool that knows every message and service of this server.

    Raises:
        MissingExtra: a package of the extra `grpc` is not installed.
    """
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, json_format
        from grpc_health.v1 import health_pb2
        from grpc_reflection.v1alpha import reflection_pb2
    except ImportError as error:
        raise MissingExtra(f"gRPC needs a package: {error}", hint=install("grpc")) from error

    found = descriptor_pool.DescriptorPool()
    files = json_format.Parse(DESCRIPTORS.read_text("utf-8"), descriptor_pb2.FileDescriptorSet())
    for file in files.file:
        found.Add(file)
    for foreign in (health_pb2, reflection_pb2):
        found.AddSerializedFile(foreign.DESCRIPTOR.serialized_pb)
    return found


@cache
def message(name: str) -> Any:
    """Return the class of a message by its full name, such as `luban.v1.PredictRequest`."""
    from google.protobuf import message_factory

    return message_factory.GetMessageClass(pool().FindMessageTypeByName(name))
