"""Every command uses an override, or refuses it."""

from importlib import import_module

import pytest

from tests.conftest import REPOSITORY
from vivit_train.config import check_used
from vivit_train.config.keys import KEYS
from vivit_train.config.used import is_used
from vivit_train.errors import UserError

COMMANDS = {
    name: import_module(f"vivit_train.commands.{name.replace('-', '_')}").USES
    for name in ("check", "describe", "doctor", "evaluate", "prepare", "show-batch")
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_key_is_used_or_refused(command: str) -> None:
    uses = COMMANDS[command]
    used = [key for key in KEYS if is_used(key, uses)]
    check_used(command, [f"{key}=1" for key in used], uses)
    for key in KEYS:
        if key not in used:
            with pytest.raises(UserError, match=f"vivit {command} does not use {key}="):
                check_used(command, [f"{key}=1"], uses)
    # Only a training has these; and no name in the list is one of nothing.
    for key in ("run_dir", "ckpt_path", "name"):
        assert key not in used
    assert not [key for key in used if key.startswith(("logger.", "hydra."))]
    assert command == "doctor" or "trainer.max_epochs" not in used
    for name in uses:
        key = name.removeprefix("-")
        assert key == "experiment" or any(f"{k}.".startswith(f"{key}.") for k in KEYS), name


def test_groups_and_exceptions() -> None:
    uses = ("data", "-data.verdicts", "model.num_frames", "-model.from_image")
    for key in ("data", "data.root", "data.of_ones_own", "model", "model.num_frames"):
        assert is_used(key, uses), key
    for key in ("data.verdicts", "model.hidden_size", "optim", "optim.lr", "database", "seed"):
        assert not is_used(key, uses), key
    assert not is_used("model.from_image.inflation", ("model", "-model.from_image"))


def test_all_are_named_at_once() -> None:
    with pytest.raises(UserError) as caught:
        check_used("check", ["data=folder", "optim=sgd", "seed=1"], ("data", "-data.verdicts"))
    assert str(caught.value) == (
        "vivit check does not use optim=sgd, seed=1: leave that out. It uses data, without "
        "data.verdicts"
    )


def test_the_documentation_says_the_same() -> None:
    text = (REPOSITORY / "docs" / "configuration.md").read_text()
    for command, uses in COMMANDS.items():
        used = ", ".join(f"`{key}`" for key in uses if not key.startswith("-"))
        without = ", ".join(f"`{key[1:]}`" for key in uses if key.startswith("-"))
        assert f"| `vivit {command}` | {used} | {without} |" in text
