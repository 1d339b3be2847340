"""Feedback through a live server, the clients and the command line, to a file that is read again; a canary by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import challengers
import grpc
import httpx
import pytest
from serving import served
from unit.bundle.made import LABELS, WORDS, Made

import luban
from luban.data.read import read
from luban.project.schema import DataSection
from luban.serve.protocols.messages import PREDICTOR, message
from luban.stages import registering


@pytest.fixture
def registry(classify: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    place = str(tmp_path / "registry")
    monkeypatch.setenv("LUBAN_REGISTRY", place)
    monkeypatch.setenv("LUBAN_WHO", "ann")
    for folder in (classify.folder, challengers.good(classify.folder, tmp_path / "b1", 1)):
        registering.register(folder, name="bank", registry=place, measure=False, who="test")
    registering.promote("bank@1", registry=place, force=True, why="a test", who="test")
    return place


def other(label: str | None) -> str:
    return next(one for one in LABELS["classify"] if one != label)


def test_from_answers_to_a_labelled_file(registry: str, said: Any, tmp_path: Path) -> None:
    texts = ["where is my card, 13812345678", "退款", "late"]
    with served("support=bank@champion", "--grpc-port", "0") as server:
        with luban.Client(server.url) as client:
            answer = client.predict("support", texts, ids=True)
            assert len(answer.ids) == 3 and client.predict("support", texts).ids == ()
            wrong = luban.Feedback(
                id=answer.ids[0], text=texts[0], label=other(answer[0].label), source="user-7", comment="no"
            )
            first = client.feedback("support", wrong, once="k")
            assert client.feedback("support", [wrong], once="k") == first
            client.feedback("support", luban.Feedback(id=answer.ids[1], right=False))
            client.feedback("support", luban.Feedback(id=answer.ids[1], text=texts[1], right=True))
            with pytest.raises(luban.BadRequest, match=r"items\[0\].label: got 'loan'") as refused:
                client.feedback("support", luban.Feedback(text="a loan", label="loan"))
            assert "known: " in refused.value.hint
            with pytest.raises(luban.Conflict):
                client.feedback("support", luban.Feedback(text="a", label=LABELS["classify"][0]), once="k")
            lines = "\n".join(json.dumps({"text": text, "id": text}) for text in texts)
            streamed = httpx.post(f"{server.url}/v1/models/support/batch?ids=1", content=lines).text.splitlines()
            last = json.loads(streamed[-1])
            assert last["id"] == texts[-1], "the caller's own"
            client.feedback("support", luban.Feedback(id=last["answer_id"], right=True))
        with grpc.insecure_channel(server.grpc) as channel:
            predict = channel.unary_unary(
                f"/{PREDICTOR}/Predict", response_deserializer=message("luban.v1.PredictResponse").FromString
            )
            asked = message("luban.v1.PredictRequest")(model="support", texts=texts[2:], ids=True)
            (third,) = predict(asked.SerializeToString()).predictions
            send = channel.unary_unary(
                f"/{PREDICTOR}/SendFeedback", response_deserializer=message("luban.v1.FeedbackResponse").FromString
            )
            remark = message("luban.v1.Remark")(id=third.id, text=texts[2], label=other(third.labels[0]))
            given = message("luban.v1.FeedbackRequest")(model="support", items=[remark], once="g").SerializeToString()
            taken = send(given)
            assert taken == send(given) and taken.state == "quarantined" and len(taken.ids) == 1
    rows = json.loads(said("feedback", "list", "bank@1", "--json").splitlines()[-1])["feedback"]
    assert [one["wrong"] for one in rows] == [True, True, False, False, True] and rows[0]["id"] == first[0]
    assert "user-7" in said("feedback", "list", "--source", "user-7")
    assert "nothing was said yet" in said("feedback", "list", "bank@2")
    file = tmp_path / "said.csv"
    assert "1 without a text or what is right, 1 replaced" in said("feedback", "export", "bank", "-o", str(file))
    found = read(file, DataSection(train=str(file), text="text", label="label"), "classify").table.to_pylist()
    assert [one["text"] for one in found] == ["where is my card, <PHONE>", texts[1], texts[2]]
    assert [one["labels"] for one in found] == [
        [other(answer[0].label)], [answer[1].label], [other(third.labels[0])],
    ]  # fmt: skip
    assert "deleted: 1 rows" in said("feedback", "delete", "--source", "user-7", "--why", "asked to")
    assert "nothing was deleted" in said("feedback", "delete", "bank", "--older", "1d")
    assert "no feedback on bank@2" in said("feedback", "export", "bank@2", "-o", str(file), exit_code=7)
    assert "feedback-delete" in said("audit", "list") and "holds" in said("audit", "verify")
    for wrong_use in (("delete",), ("delete", "bank", "--older", "soon"), ("list", "bank@champion")):
        assert said("feedback", *wrong_use, exit_code=8)
    for wrong_use in (("export", "bank"), ("list", "--older", "1d"), ("forget",)):
        assert said("feedback", *wrong_use, exit_code=2)


def test_a_canary_whose_answers_are_wrong_more_often_goes_back(registry: str, said: Any) -> None:
    said("canary", "bank@2", "--share", "0.5", "--disagree-at-most", "0.9")
    with served("bank") as server:
        server.wait_for("trial.begun")
        with luban.Client(server.url) as client:
            for number in range(400):
                answer = client.predict("bank", [f"{WORDS[number % len(WORDS)]} {number}"], ids=True)
                right = answer.version == 1 or number % 3 == 0
                client.feedback("bank", luban.Feedback(id=answer.ids[0], right=right))
                if any(one["event"] == "trial.ended" for one in server.events):
                    break
        assert server.wait_for("trial.ended")["state"] == "rolled_back"
        assert "by feedback, of the champion 0 of" in (told := said("canary", "bank", "--status", exit_code=1))
        assert "feedback says that" in told
