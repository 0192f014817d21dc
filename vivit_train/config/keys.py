"""Every key of the configuration and what it takes: types, ranges, choices, whether null."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from vivit_train.config.kinds import (
    Kind,
    arguments,
    choice,
    duration,
    folder_name,
    hinted,
    interval,
    list_of,
    mapping_of,
    no_limit,
    null,
    number,
    off,
    part,
    parts,
    path,
    pixels,
    share,
    switch,
    text,
    views,
    whole,
)

# Follows from the training set: see `vivit_train.recipe.preset`.
AUTO = "auto"
auto = choice(AUTO)
# For values with which nothing would be trained.
TEST_ALONE = "`vivit evaluate` tests a model without training it"
# Upper bounds are far above what trains: a typing error gets a message instead of running out of
# memory. The constructors check what several keys must have in common.
KEYS: Mapping[str, Kind] = {
    "name": folder_name,
    "seed": whole(0, 2**32 - 1),
    "ckpt_path": path | null,
    "allow_other_videos": switch,
    "run_dir": path,
    "started_in": path | null,
    # ViViT's arguments, and what is done with the model.
    "model.name": folder_name,
    "model.pretrained": path | null,
    "model.attention": choice(
        "spatio_temporal",
        "factorised_encoder",
        "factorised_self_attention",
        "factorised_dot_product",
    ),
    "model.attention_order": choice("time_space", "space_time") | null,
    "model.pooling": choice("cls", "mean", "max", "sum", "first"),
    "model.image_size": pixels | list_of(pixels, 2),
    "model.num_frames": whole(1, 4096),
    "model.tubelet_size": list_of(whole(1, 4096), 3),
    "model.num_channels": choice(3),
    "model.hidden_size": whole(1, 8192),
    "model.num_layers": whole(1, 256),
    "model.num_heads": whole(1, 1024),
    "model.mlp_size": whole(1, 32768),
    "model.temporal_layers": whole(0, 256) | null,
    "model.temporal_heads": whole(1, 1024) | null,
    "model.temporal_mlp_size": whole(1, 32768) | null,
    "model.activation": choice(
        "gelu", "gelu_fast", "gelu_new", "gelu_pytorch_tanh", "relu", "selu"
    ),
    "model.dropout": number(least=0, below=1),
    "model.attention_dropout": number(least=0, below=1),
    "model.drop_path": number(least=0, below=1),
    "model.drop_path_style": choice("scenic", "timm"),
    "model.token_drop": number(least=0, below=1),
    "model.initializer_range": number(above=0, most=10) | null,
    "model.layer_norm_eps": number(least=0, most=1),
    "model.qkv_bias": switch,
    "model.representation_size": whole(1, 32768) | null,
    "model.sampled_frames": whole(1, 4096) | null,
    "model.attention_implementation": choice("sdpa", "eager"),
    "model.activation_checkpointing": switch,
    "model.attention_kernel": choice(
        "auto", "cudnn", "flash", "efficient", "math", "fa3", "fa4"
    ),
    "model.compile": switch | auto,
    "model.from_image.inflation": choice("central", "average", "average_arp") | null,
    "model.from_image.positions": choice("tile", "resize", "resize_tile") | null,
    "model.from_image.spatial_attention": choice("copy", "random"),
    "model.from_image.temporal_attention": choice("copy", "zero", "random"),
    # Of every data set, then of some.
    "data._target_": text,
    "data.name": folder_name,
    "data.root": path | null,
    "data.clip_frames": whole(1, 4096),
    # Of these three exactly one, and none with data.sampling=whole.
    "data.frame_stride": whole(1, 10_000) | null,
    "data.frame_rate": number(above=0, most=1000) | null,
    "data.clip_seconds": number(above=0, most=86_400) | null,
    "data.sampling": choice("window", "whole") | null | auto,
    "data.batch_size": whole(1, 1_000_000) | auto,
    "data.num_workers": whole(0, 1024) | null,
    "data.eval_views": views,
    "data.val_views": views,
    "data.train_split": path,
    "data.val_split": path,
    "data.test_split": path | null,
    "data.frame_order": choice("natural", "shuffled", "repeated"),
    "data.decoder": choice("auto", "pyav", "decord", "torchcodec"),
    "data.picture_rate": number(above=0, most=1000) | null,
    "data.multi_label": switch,
    "data.class_sampling": share | auto,
    "data.one_batch": switch,
    "data.max_bad_fraction": share,
    "data.decode_timeout": number(above=0, most=1_000_000) | null,
    "data.verdicts": path | null,
    "data.train_per_class": whole(1, 1_000_000),
    "data.val_per_class": whole(1, 1_000_000),
    "data.val_fraction": number(above=0, below=1),
    "data.fold": whole(0, 999) | null,
    "data.num_folds": whole(2, 1000),
    "data.group": text | null,
    "data.split": choice(1, 2, 3),
    "data.label_key": text | null,
    "data.index_dir": path | null,
    "processor.do_resize": switch | null,
    "processor.size": pixels | list_of(pixels, 2) | null,
    "processor.resample": choice("nearest", "bilinear", "bicubic", 0, 2, 3) | null,
    "processor.do_center_crop": switch | null,
    "processor.crop_size": pixels | list_of(pixels, 2),
    "processor.do_rescale": switch | null,
    "processor.rescale_factor": number(above=0, most=1_000_000) | null,
    "processor.offset": switch | null,
    "processor.do_normalize": switch | null,
    "processor.image_mean": number(least=-1000, most=1000)
    | list_of(number(least=-1000, most=1000), 3)
    | null,
    "processor.image_std": number(above=0, most=1000)
    | list_of(number(above=0, most=1000), 3)
    | null,
    "augment.scale_jitter": interval(most=100) | null,
    "augment.random_crop": switch,
    "augment.random_resized_crop": interval(most=1) | null,
    "augment.random_resized_crop_ratio": interval(most=100),
    "augment.horizontal_flip": share | auto,
    "augment.flip_labels": (
        list_of(list_of(text, 2)) | mapping_of(text, "{turn left: turn right}") | path | null
    ),
    "augment.color_jitter": share,
    "augment.brightness": share,
    "augment.contrast": share,
    "augment.saturation": share,
    "augment.hue": number(least=0, most=0.5),
    "augment.grayscale": share,
    "augment.rand_augment_layers": whole(0, 100),
    "augment.rand_augment_magnitude": number(least=0, most=100),
    "augment.rand_augment_operations": choice("paper", "torchvision"),
    "augment.random_erasing": share,
    "augment.random_erasing_scale": interval(most=1),
    "augment.mixup": number(least=0, most=1_000_000),
    "augment.cutmix": number(least=0, most=1_000_000),
    "augment.mix_min_videos": whole(0),
    "augment.repeats": whole(1, 1_000_000),
    "optim.name": choice("sgd", "adamw", "torch"),
    "optim.lr": number(least=0, most=1_000_000) | auto,
    "optim.momentum": share,
    "optim.betas": list_of(number(least=0, below=1), 2),
    "optim.eps": number(least=0, most=1),
    "optim._target_": text,
    "optim.arguments": arguments,
    "optim.weight_decay": number(least=0, most=1_000_000),
    "optim.layer_decay": number(above=0, most=1),
    "optim.lr_batch_size": whole(1) | null,
    "optim.freeze": list_of(text, least=1) | text | null,
    "optim.lora_rank": whole(1, 1024) | null,
    "optim.warmup_epochs": number(least=0, most=1_000_000) | auto,
    "optim.min_lr_fraction": share,
    "optim.schedule": part,
    "optim.label_smoothing": share,
    "optim.class_weights": choice("balanced") | null,
    # Lightning's names and ranges. Zero batches or steps of training are no training.
    "trainer.accelerator": text,
    "trainer.devices": choice("auto", -1) | whole(1, 1024) | list_of(whole(0, 1023), least=1),
    "trainer.num_nodes": whole(1, 100_000),
    "trainer.strategy": text,
    "trainer.precision": choice(
        "auto", "bf16-mixed", "16-mixed", "32-true", "64-true", "bf16-true", "16-true", "bf16",
        "transformer-engine", "transformer-engine-float16", "32", "64", "16", 32, 64, 16,
    ),
    # null is 1000 epochs to Lightning
    "trainer.max_epochs": hinted(whole(1) | no_limit | auto, TEST_ALONE),
    "trainer.max_steps": hinted(whole(1) | no_limit, TEST_ALONE),
    "trainer.max_time": duration | null,
    "trainer.limit_train_batches": hinted(
        whole(1) | number(above=0, most=1) | null, TEST_ALONE
    ),
    "trainer.limit_val_batches": whole(0) | share | null,
    "trainer.limit_test_batches": whole(0) | share | null,
    # Lightning takes a duration too. We do not: each run would validate after other steps.
    "trainer.val_check_interval": whole(1) | number(above=0, most=1) | null,
    "trainer.check_val_every_n_epoch": whole(1) | null | auto,
    "trainer.num_sanity_val_steps": whole(-1),
    "trainer.accumulate_grad_batches": whole(1, 1_000_000) | auto,
    "trainer.gradient_clip_val": number(least=0, most=1_000_000) | null,
    "trainer.gradient_clip_algorithm": choice("norm", "value"),
    "trainer.log_every_n_steps": whole(0),
    "trainer.deterministic": switch | choice("warn"),
    "trainer.benchmark": switch | null,
    "trainer.sync_batchnorm": switch,
    "trainer.profiler": choice("simple", "advanced", "pytorch") | null,
    "trainer.detect_anomaly": switch,
    "trainer.enable_progress_bar": switch,
    "trainer.enable_model_summary": switch,
    "callbacks.monitor": text | null,
    "callbacks.patience_steps": whole(1) | null,
    "callbacks.top_k": whole(1, 1000),
    "callbacks.score_tolerance": number(least=0) | auto,
    "callbacks.every_n_train_steps": whole(0),
    "callbacks.non_finite": choice("stop", "skip"),
    "callbacks.refresh_rate": whole(0),
    "callbacks.ema_decay": number(least=0, below=1) | null | auto,
    "callbacks.extra": parts("{lr: {_target_: lightning.pytorch.callbacks.LearningRateMonitor}}"),
    "logger.wandb": off("logger=wandb"),
    "logger.wandb.project": text | null,
    "logger.wandb.entity": text | null,
    "logger.wandb.group": text | null,
    "logger.wandb.tags": list_of(text),
    "logger.wandb.notes": text | null,
    "logger.wandb.id": text | null,
    "logger.tensorboard": off("logger=tensorboard"),
    "logger.tensorboard.flush_secs": whole(1, 1_000_000),
    "logger.mlflow": off("logger=mlflow"),
    "logger.mlflow.experiment_name": text,
    "logger.mlflow.tracking_uri": text | null,
    "logger.mlflow.run_id": text | null,
    "logger.extra": parts("{csv: {_target_: lightning.pytorch.loggers.CSVLogger, save_dir: logs}}"),
    # Sweeps.
    "hydra.sweep.dir": path,
    "hydra.launcher.name": choice("local", "slurm"),
    "hydra.launcher.n_jobs": whole(1, 100_000),
    "hydra.launcher.signal_seconds": whole(0, 1_000_000),
    "hydra.launcher.sbatch": mapping_of(
        whole(0) | text | switch | null, "{partition: gpu, cpus-per-task: 12}"
    ),
    "hydra.launcher.setup": Kind("a shell command", lambda value: isinstance(value, str)),
    "hydra.sweeper.n_trials": whole(1),
    "hydra.sweeper.metric": text,
    "hydra.sweeper.direction": choice("maximize", "minimize"),
    "hydra.sweeper.sampler": choice("tpe", "random"),
    "hydra.sweeper.seed": whole(0, 2**32 - 1) | null,
    "hydra.sweeper.prune": switch,
    "hydra.sweeper.params": mapping_of(
        text | number() | switch, '{optim.lr: "1e-4,3e-4"}'
    ),
}  # fmt: skip

# Objects of the user's own by name.
EXTRA = ("callbacks.extra", "logger.extra")
# Keys below these are the user's own, and need not be in the configuration to be set.
OPEN = (*EXTRA, "optim.arguments", "optim.schedule")

_GROUPS = {key[:place] for key in KEYS for place, sign in enumerate(key) if sign == "."}


def opened_by(key: str) -> str | None:
    """The one of `OPEN` that a key is, or is below; ``None``: it is a key like any other."""
    return next((name for name in OPEN if f"{key}.".startswith(f"{name}.")), None)


def refusal(key: str, value: Any) -> str | None:
    """What is wrong with a value, as the end of a sentence; ``None`` if nothing is.

    Args:
        key: Of the configuration; keys that are not ours, of a data set of one's own or of
            Lightning, take anything.
        value: Plain and resolved.
    """
    if key in _GROUPS and isinstance(value, Mapping):
        wrong = next(misfits(value, f"{key}."), None)
        return None if wrong is None else f"{wrong[0]}={in_words(wrong[1])}: {wrong[2]}"
    if key in KEYS:
        return None if KEYS[key].fits(value) else f"expected {KEYS[key].expected}"
    if key in _GROUPS:
        names = (name[len(key) + 1 :] for name in KEYS if name.startswith(f"{key}."))
        return f"expected a mapping with the keys {', '.join(names)}"
    return None


def misfits(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """The values that their keys do not take: key, value and what was expected.

    Args:
        config: Plain and resolved; or a part of it.
        prefix: What its keys begin with, e.g. ``model.``.
    """
    for name, value in config.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and key in _GROUPS:
            yield from misfits(value, f"{key}.")
        elif told := refusal(key, value):
            yield key, value, told


def in_words(value: Any) -> str:
    """A value as on the command line, cut short."""
    words = value if isinstance(value, str) else json.dumps(value, default=str)
    words = words.replace('"', "").replace(", ", ",")
    return words if len(words) <= 80 else f"{words[:77]}..."
