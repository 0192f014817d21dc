"""Callbacks of the user's own, or Lightning's: ``callbacks.extra``."""

from collections.abc import Mapping
from typing import Any

from lightning import Callback

from vivit_train.config.target import build_named
from vivit_train.io.terminal import is_rank_zero, say


def extra_callbacks(extra: Mapping[str, Mapping[str, Any] | None], resumes: bool) -> list[Callback]:
    """The callbacks that the configuration names, in its order.

    Args:
        extra: ``_target_`` and arguments of each, by a name of the user's; ``None``: left out.
        resumes: Whether the run is resumed. Then it says which of them begin anew.

    Raises:
        UserError: If one cannot be imported or built, or is no callback.
    """
    made = []
    for name, settings in extra.items():
        if settings is None:
            continue
        key = f"callbacks.extra.{name}"
        callback = build_named(key, settings, Callback, "a callback")
        if resumes and not _keeps_state(callback) and is_rank_zero():
            say(f"{key} ({type(callback).__name__}) keeps no state in checkpoints: it begins anew")
        made.append(callback)
    return made


def _keeps_state(callback: Callback) -> bool:
    kind = type(callback)
    return (
        kind.state_dict is not Callback.state_dict
        or kind.on_save_checkpoint is not Callback.on_save_checkpoint
    )
