"""What a resumed run may change of its configuration: one rule for each key."""

from collections.abc import Iterator, Mapping
from enum import Enum
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from vivit_train.errors import UserError


class Outcome(Enum):
    """What happens to a value that differs from the run's own."""

    USED = "used from the next step on"
    FREE = "used; the training stays the same"
    REFUSED = "refused"


class Rule(NamedTuple):
    """What happens to some keys, and why.

    Attributes:
        keys: Keys, or patterns such as ``augment.*``, with spaces between them.
        outcome: What happens.
        text: How the value is used, or the reason for the refusal.
    """

    keys: str
    outcome: Outcome
    text: str = ""

    def __str__(self) -> str:
        return f"{self.outcome.value}: {self.text}" if self.text else self.outcome.value


USED, FREE, REFUSED = Outcome.USED, Outcome.FREE, Outcome.REFUSED

RULES = (
    Rule(
        "model.name model.attention model.attention_order model.pooling model.image_size "
        "model.num_frames model.tubelet_size model.num_channels model.hidden_size "
        "model.num_layers model.num_heads model.mlp_size model.temporal_layers "
        "model.temporal_heads model.temporal_mlp_size model.activation model.layer_norm_eps "
        "model.qkv_bias model.representation_size model.sampled_frames",
        REFUSED,
        "the checkpoint holds the weights of this model",
    ),
    Rule(
        "model.pretrained model.initializer_range model.from_image.*",
        REFUSED,
        "it says which weights a run starts from, and a resumed run has those of its checkpoint",
    ),
    Rule(
        "model.dropout model.attention_dropout model.drop_path model.drop_path_style "
        "model.token_drop",
        USED,
    ),
    Rule(
        "model.attention_implementation model.attention_kernel model.activation_checkpointing "
        "model.compile",
        FREE,
        "the same operations; rounding may differ",
    ),
    Rule(
        "processor.* data.clip_frames data.frame_stride data.frame_rate data.clip_seconds "
        "data.sampling data.frame_order data.picture_rate",
        REFUSED,
        "the weights were trained, and the best checkpoint was chosen, on clips made this way",
    ),
    Rule(
        "data.multi_label",
        REFUSED,
        "it says what the logits of the checkpoint's head mean, and which loss it is trained with",
    ),
    Rule(
        "data.val_views", REFUSED, "the score of the best checkpoint was measured with these views"
    ),
    Rule(
        "data._target_ data.root data.split data.train_split data.val_split data.label_key "
        "data.verdicts data.train_per_class data.val_per_class",
        USED,
        "the training and validation splits must hold the same videos in the same order",
    ),
    Rule(
        "data.val_fraction data.fold data.num_folds data.group",
        REFUSED,
        "the run keeps the validation videos that it began with",
    ),
    Rule("data.test_split data.eval_views trainer.limit_test_batches", USED, "in the test"),
    Rule("data.decoder", USED, "colours may differ between decoders by rounding"),
    Rule(
        "data.batch_size augment.repeats trainer.devices trainer.num_nodes",
        USED,
        "an optimiser step keeps its number of videos: trainer.accumulate_grad_batches follows",
    ),
    Rule(
        "trainer.accumulate_grad_batches trainer.limit_train_batches",
        USED,
        "an optimiser step and an epoch must keep their number of videos",
    ),
    Rule(
        "data.name data.num_workers data.index_dir data.decode_timeout data.max_bad_fraction",
        FREE,
    ),
    Rule("augment.*", USED),
    Rule(
        "optim.name optim._target_ optim.arguments optim.schedule optim.layer_decay optim.freeze "
        "optim.lora_rank",
        REFUSED,
        "the checkpoint holds the state of this optimiser and schedule, for these parameter groups",
    ),
    Rule(
        "optim.lr optim.lr_batch_size optim.warmup_epochs optim.min_lr_fraction "
        "trainer.max_epochs trainer.max_steps",
        USED,
        "the learning rate is that of the new schedule at the step where the run stands",
    ),
    Rule(
        "optim.momentum optim.betas optim.eps optim.weight_decay optim.label_smoothing "
        "optim.class_weights",
        USED,
        "the optimiser's state is kept",
    ),
    Rule(
        "trainer.accelerator trainer.strategy trainer.precision trainer.deterministic "
        "trainer.benchmark trainer.sync_batchnorm",
        USED,
        "the same operations; rounding may differ",
    ),
    Rule(
        "trainer.max_time trainer.limit_val_batches trainer.val_check_interval "
        "trainer.check_val_every_n_epoch trainer.num_sanity_val_steps trainer.gradient_clip_val "
        "trainer.gradient_clip_algorithm callbacks.every_n_train_steps callbacks.non_finite "
        "callbacks.patience_steps",
        USED,
    ),
    Rule("callbacks.monitor", USED, "the next validation replaces best.ckpt"),
    Rule(
        "callbacks.top_k callbacks.score_tolerance",
        USED,
        "from the next validation that is among the best",
    ),
    Rule(
        "callbacks.extra",
        USED,
        "a callback has the state that it put into the checkpoint, if any; another begins anew",
    ),
    Rule("callbacks.ema_decay", REFUSED, "the checkpoint holds averages made with it, or none"),
    Rule(
        "trainer.log_every_n_steps trainer.profiler trainer.detect_anomaly "
        "trainer.enable_progress_bar trainer.enable_model_summary callbacks.refresh_rate logger.* "
        "name",
        FREE,
    ),
    Rule(
        "seed data.class_sampling data.one_batch",
        REFUSED,
        "the order of the videos and all random draws follow from it",
    ),
    Rule(
        "allow_other_videos",
        USED,
        "in this call only: splits that hold other videos are accepted, with a warning",
    ),
    Rule("ckpt_path run_dir", FREE, "the checkpoint to resume from, and the folder to write to"),
    Rule("started_in", FREE, "the folder of this call"),
)
# Keys that the shipped configuration does not have.
OF_ONES_OWN = Rule("callbacks.extra.*", USED)
OF_THE_OPTIMISER = Rule(
    "optim.arguments.* optim.schedule.*", REFUSED, "the checkpoint holds the state that it made"
)
OF_ANOTHER_DATA_SET = Rule("data.*", USED, "the splits must hold the same videos as before")
OF_ANOTHER_VERSION = Rule("*", REFUSED, "it is unknown what it changes in a run that has begun")


def rule_of(key: str) -> Rule:
    """The rule for a key; the more specific one where a pattern and a name match."""
    matching = [
        (pattern == key, rule)
        for rule in (*RULES, OF_ONES_OWN, OF_THE_OPTIMISER, OF_ANOTHER_DATA_SET, OF_ANOTHER_VERSION)
        for pattern in rule.keys.split()
        if fnmatchcase(key, pattern)
    ]
    return next((rule for exact, rule in matching if exact), matching[0][1])


def values(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The keys of a resolved configuration, such as ``optim.lr``, with their values."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from values(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """What differs between two resolved configurations, apart from where they are kept.

    Returns:
        For each key the change in words, e.g. ``optim.lr: 0.1 -> 0.2``.
    """
    old, new = dict(values(before)), dict(values(now))
    return {
        key: f"{key}: {old.get(key)} -> {new.get(key)}"
        for key in old | new
        if old.get(key) != new.get(key) and key not in ("ckpt_path", "run_dir", "started_in")
    }


def check_changes(changes: Mapping[str, str], run: str) -> None:
    """Refuses changes that a resumed run cannot make.

    Args:
        changes: As `differences` gives them.
        run: What the message calls the run.

    Raises:
        UserError: Naming all of these changes, with the reasons.
    """
    refused: dict[str, list[str]] = {}
    for key, change in changes.items():
        rule = rule_of(key)
        if rule.outcome is REFUSED:
            refused.setdefault(rule.text, []).append(change)
    if refused:
        told = "; ".join(f"{', '.join(words)} ({reason})" for reason, words in refused.items())
        raise UserError(
            f"{run} cannot be resumed with {told}. Leave these values as they were, or start a new "
            "run from its weights with model.pretrained"
        )
