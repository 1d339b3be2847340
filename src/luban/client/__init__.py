"""A client of `luban serve`, in two forms from one source: `luban.Client` and `luban.AsyncClient`."""

from __future__ import annotations

from luban.client.asynchronous import AsyncClient
from luban.client.calls import Answer, Explained, Feedback, ServedModel
from luban.client.synchronous import Client

__all__ = ["Answer", "AsyncClient", "Client", "Explained", "Feedback", "ServedModel"]
