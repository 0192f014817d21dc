"""The configuration of a run: words of the command line, composing, and what each key takes.

Nothing here imports torch: a mistake is answered before anything heavy is loaded.
"""

from vivit_train.config.compose import (
    complete_config,
    compose_config,
    override_config,
    replaced,
)
from vivit_train.config.folders import (
    config_dir_words,
    program,
    use_config_dir,
)
from vivit_train.config.plain import check_lora, check_schedule, check_warmup, from_here, to_plain
from vivit_train.config.saved import read_saved, saved_config
from vivit_train.config.used import check_used
from vivit_train.config.words import command_line, parse_overrides, word_of

__all__ = [
    "check_lora",
    "check_schedule",
    "check_used",
    "check_warmup",
    "command_line",
    "complete_config",
    "compose_config",
    "config_dir_words",
    "from_here",
    "override_config",
    "parse_overrides",
    "program",
    "read_saved",
    "replaced",
    "saved_config",
    "to_plain",
    "use_config_dir",
    "word_of",
]
