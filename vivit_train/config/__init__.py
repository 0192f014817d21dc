"""The configuration of a run: words of the command line, composing, and what keys may hold.

Nothing here imports torch: a mistake is answered before anything heavy is loaded.
"""

from vivit_train.config.compose import (
    CONFIG_DIR,
    check_keys,
    complete_config,
    compose_config,
    is_group,
    override_config,
    parse_overrides,
    to_plain,
)

__all__ = [
    "CONFIG_DIR",
    "check_keys",
    "complete_config",
    "compose_config",
    "is_group",
    "override_config",
    "parse_overrides",
    "to_plain",
]
