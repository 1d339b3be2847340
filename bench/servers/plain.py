"""A transformers pipeline behind FastAPI and uvicorn, as most teams begin."""

import sys

import uvicorn
from answering import opened
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()
answer = opened()


class Request(BaseModel):
    """One text."""

    text: str


@app.post("/predict")
def predict(request: Request) -> dict[str, str]:
    """Answer one text, in the thread pool that FastAPI has for plain functions."""
    return {"label": answer([request.text])[0]}


uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="error")
