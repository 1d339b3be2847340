"""What the search is told of a step that can't be done, and what ends it."""

from __future__ import annotations

import pytest

from luban.compress.build import Refused, _refusing
from luban.errors import Diverged, LubanError, OutOfMemory
from luban.project.schema import Plugin

STEP = Plugin(kind="layers", options={"keep": 2})


@pytest.mark.parametrize("error", [LubanError("it has one layer"), Diverged("the loss is nan", hint="set train.x")])
def test_a_step_that_can_not_be_done_is_refused_and_the_search_goes_on(error: LubanError) -> None:
    with pytest.raises(Refused) as caught, _refusing(STEP):
        raise error
    assert caught.value.step == STEP and caught.value.error.message == error.message


def test_a_step_that_diverges_names_its_own_rate() -> None:
    with pytest.raises(Refused) as caught, _refusing(STEP):
        raise Diverged("the loss is nan", hint="set train.learning_rate below 3.0e-05")
    assert caught.value.error.hint == "give the step layers a lower learning_rate"


def test_a_machine_that_is_too_small_ends_the_search() -> None:
    with pytest.raises(OutOfMemory), _refusing(STEP):
        raise OutOfMemory("out of memory")
