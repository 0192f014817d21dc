"""The command that repeats a run, from the configuration that it saved."""

import json
from typing import Any

from vivit_train.config import compose_config, to_plain, word_of
from vivit_train.config.changes import values
from vivit_train.config.folders import CONFIG_DIR, program
from vivit_train.config.keys import KEYS
from vivit_train.config.words import in_shell
from vivit_train.errors import UserError

# What a run has of its own, and what follows from other keys.
_OF_THE_RUN = (
    "run_dir", "started_in", "ckpt_path", "allow_other_videos", "name", "model.name", "data.name",
)  # fmt: skip


def words_of(settings: dict[str, Any]) -> list[str]:
    """``key=value`` words with which ``train.py`` has the settings of a run.

    Args:
        settings: Flat, as `vivit_train.config.changes.values` gives them of a config.yaml.

    Returns:
        The options of the groups `model`, `data` and `optim` by their names, then what differs
        from these options' values.

    Raises:
        UserError: If the configurations of this version cannot be composed, or have not all of the
            run's keys: words without some of them would be another run.
    """
    groups = {
        group: str(settings.get(f"{group}.name"))
        for group in ("model", "data", "optim")
        if (CONFIG_DIR / group / f"{settings.get(f'{group}.name')}.yaml").is_file()
    }
    words = [f"{group}={option}" for group, option in groups.items()]
    stock = dict(values(to_plain(compose_config([*words, "data.root=."]), needs_weights=False)))
    told = {key: value for key, value in settings.items() if key not in _OF_THE_RUN}
    if unknown := sorted(told.keys() - stock.keys()):
        raise UserError(f"no words set {', '.join(unknown)}, which the run has")
    differing = {key: value for key, value in told.items() if stock[key] != value}
    return words + [_word(key, value) for key, value in differing.items()]


def _word(key: str, value: Any) -> str:
    if not isinstance(value, str):
        return f"{key}={json.dumps(value)}"
    return word_of(key, value) if key in KEYS and KEYS[key].is_text else f"{key}={value}"


def command_of(settings: dict[str, Any]) -> str:
    """The command that repeats a run, for a shell."""
    return f"{program()} {in_shell(words_of(settings))}"
