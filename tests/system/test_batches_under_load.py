"""Batches under load, over HTTP."""

import itertools
import json

import pytest
from served import call_from_many, serving

pytestmark = pytest.mark.system


def test_batches_of_interleaved_models_are_nearly_whole_and_never_mixed() -> None:
    model_ids = list(itertools.islice(itertools.cycle("abc"), 1_500))
    with serving("batched:app") as served:
        replies = call_from_many(served.port, model_ids, clients=60)
    answers = [json.loads(reply.body) for reply in replies if reply.status == 200]
    assert len(answers) == len(model_ids)
    assert all(answer["named"] == [answer["model"]] for answer in answers)
    batches = sum(1 / answer["size"] for answer in answers)
    assert len(answers) / batches >= 7
    assert max(answer["size"] for answer in answers) == 8
