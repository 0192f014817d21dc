import dataclasses

import pytest

from tests.describe.models import CLIP, small
from vivit_train.describe import describe
from vivit_train.describe.memory import Memory
from vivit_train.errors import UserError


def test_mistakes() -> None:
    for wrong, message in (
        ({"precision": "8-true"}, "trainer.precision=8-true.*use one of them"),
        ({"optimizer": "lamb"}, "optim.name='lamb' is not one of sgd, adamw"),
    ):
        with pytest.raises(UserError, match=message):
            describe(small(), CLIP, **wrong)
    with pytest.raises(UserError, match="cannot be cut into tubelets"):
        describe(small(), (4, 32, 40))
    with pytest.raises(UserError, match="sampled_frames=2 embeds single frames"):
        describe(small(sampled_frames=2), CLIP)


def test_plain_values() -> None:
    plain = describe(small(), CLIP).to_dict()
    assert plain["memory"]["total"] == sum(
        plain["memory"][field.name] for field in dataclasses.fields(Memory)
    )
    assert plain["paper"] is None
