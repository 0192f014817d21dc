"""Objects from configuration, shared by training and evaluation."""

import copy
import dataclasses
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning import Fabric, Trainer
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from vivit_train.callbacks.broken_videos import BrokenVideos
from vivit_train.callbacks.checkpoints import Checkpoints
from vivit_train.callbacks.early_stopping import EarlyStopping
from vivit_train.callbacks.ema import Ema
from vivit_train.callbacks.extra import extra_callbacks
from vivit_train.callbacks.first_batch import FirstBatch
from vivit_train.callbacks.non_finite import NonFinite
from vivit_train.callbacks.progress import Progress
from vivit_train.callbacks.same_steps import SameSteps
from vivit_train.callbacks.same_videos import SameVideos
from vivit_train.callbacks.start import Start
from vivit_train.callbacks.step_seed import StepSeed
from vivit_train.callbacks.stop_signals import StopSignals
from vivit_train.callbacks.throughput import Throughput
from vivit_train.callbacks.utilisation import Utilisation
from vivit_train.config import check_lora
from vivit_train.config.keys import AUTO
from vivit_train.data.batch import ClipBatch
from vivit_train.data.class_sampling import balancing_weights
from vivit_train.data.datamodule import VideoDataModule
from vivit_train.data.target import data_class
from vivit_train.describe.counts import size
from vivit_train.describe.memory import types_of
from vivit_train.errors import UserError
from vivit_train.io.layout import CHECKPOINTS
from vivit_train.io.terminal import is_rank_zero, said_if_long, say
from vivit_train.launch.compiling import compiles
from vivit_train.launch.devices import resolve_devices, resolve_precision
from vivit_train.launch.processes import COLLECTIVE_TIMEOUT_SECONDS
from vivit_train.launch.sharding import Sharded, resolve_strategy
from vivit_train.launch.stop_watch import StopWatch
from vivit_train.model.arguments import arguments_in
from vivit_train.model.vivit import ViViT
from vivit_train.model.weights import FromImage, Row, load_weights, print_account, read_weights
from vivit_train.module import VivitModule
from vivit_train.recipe.contract import KEYS, adopt
from vivit_train.recipe.preset import fit_to_set, keep_begun, without_auto
from vivit_train.runs.begun import Begun
from vivit_train.runs.checkpoint import AtomicCheckpointIO
from vivit_train.runs.loggers import build_loggers
from vivit_train.runs.run_dir import ConfigFile
from vivit_train.runs.splits import known_validation
from vivit_train.transforms.augment import Augment
from vivit_train.transforms.processor import Processor

T = TypeVar("T")


def open_data(
    config: dict[str, Any], stage: str | None = None, begun: Begun | None = None
) -> tuple[dict[str, Any], VideoDataModule]:
    """The data of a run, set up, and the configuration with what follows from them.

    Args:
        config: The resolved configuration; what it leaves open and its ``auto`` become values,
            but for ``data.sampling=auto`` of a new run: see `fit_sampling`.
        stage: What to set up, see `VideoDataModule.setup`.
        begun: The run that is resumed; the videos that it holds out are held out again.

    Raises:
        UserError: If the data cannot be read, or a value does not fit them.
    """
    if begun is not None:
        config = copy.deepcopy(config)
        keep_begun(config, begun.config)
    measured = config["data"]["sampling"] == AUTO
    if measured:  # later, by `fit_sampling`, which needs the data: until then it is left open
        config = config | {"data": config["data"] | {"sampling": None}}
    data = build_data(config)
    if begun is not None:
        data.known_val = known_validation(begun.run_dir)
    data.setup(stage)
    if begun is None:  # a run that is resumed keeps its own values
        config = adopt(config, data)
        clips = {key: config["data"][key] for key in KEYS}
        data.sampling = dataclasses.replace(data.sampling, **clips)
        data.processor = Processor(**config["processor"])
        if measured:
            config["data"]["sampling"] = AUTO
    config = fit_to_set(config, data)
    data.batch_size = config["data"]["batch_size"]
    data.class_sampling = config["data"]["class_sampling"]
    data.augment = Augment(data.processor, **config["augment"])
    return config, data


def build_data(config: dict[str, Any], class_names: list[str] | None = None) -> VideoDataModule:
    """The DataModule, with its processor and augmentation.

    Args:
        config: The resolved configuration.
        class_names: The order of classes of a trained model; ``None``: the data set's own.
    """
    config = without_auto(config)
    processor = Processor.from_config(config["processor"])
    augment = Augment(processor, **config["augment"])
    arguments = dict(config["data"])
    return data_class(arguments.pop("_target_"))(
        **arguments,
        processor=processor,
        augment=augment,
        seed=config["seed"],
        class_names=class_names,
    )


@said_if_long("building the model and reading its weights")
def build_module(config: dict[str, Any], data: VideoDataModule) -> VivitModule:
    """The LightningModule for the classes of the data, with pretrained weights if any.

    A run that is resumed has its weights from the checkpoint.

    Raises:
        UserError: If a value does not fit the model, the weights or the machine.
    """
    check_lora(config)
    module = VivitModule(
        model=arguments_in(config["model"]) | {"num_classes": len(data.class_names)},
        class_names=data.class_names,
        processor=data.processor.settings(),
        sampling={
            **data.sampling.contract(),
            "eval_views": list(data.eval_views),
            "video_rate": data.video_rate if is_rank_zero() else None,  # which alone saves
        },
        optim=config["optim"],
        config=config,
        heads=data.heads,
        multi_label=data.multi_label,
    )
    if config["optim"]["class_weights"] is not None:
        counts = data.class_counts(f"optim.class_weights={config['optim']['class_weights']}")
        module.class_weights = torch.from_numpy(balancing_weights(counts, data.class_sampling))
    if config["model"]["pretrained"] is not None and config["ckpt_path"] is None:
        weights = read_weights(config["model"]["pretrained"])
        from_image = FromImage(**config["model"]["from_image"])
        rows = load_weights(module.model, weights, data.class_names, from_image, data.multi_label)
        if is_rank_zero():
            print_account(rows, weights.origin)
        if config["optim"]["lora_rank"] is not None:
            check_known(module.model, rows, weights.origin)
        ours, theirs_range = data.processor.value_range, weights.pixel_range
        if theirs_range is not None and not torch.allclose(
            torch.tensor(ours), torch.tensor(theirs_range), atol=1e-3
        ):
            rank_zero_warn(
                f"the pretrained weights were trained on pixels in {theirs_range[0]} (first "
                f"channel), processor.* gives {ours[0]}: set processor.* accordingly"
            )
    prepare_training(module, config)
    return module


def check_known(model: ViViT, rows: Sequence[Row], origin: str) -> None:
    """Refuses to freeze matrices for LoRA that the pretrained weights do not have.

    Args:
        model: With its weights loaded.
        rows: What became of them.
        origin: Where they come from.

    Raises:
        UserError: Naming the first.
    """
    tensors = model.state_dict()
    new = [
        row.name
        for row in rows
        if row.status in ("missing", "replaced head")
        and not row.name.startswith("head.")
        and tensors[row.name].ndim > 1
    ]
    if new:
        others = f" and {len(new) - 1} other tensors" if len(new) > 1 else ""
        raise UserError(
            f"optim.lora_rank: {origin} has no {new[0]}{others} for this model, which LoRA would "
            "keep at random values: start from weights of this video model, or train all of it, "
            "optim.lora_rank=null"
        )


def prepare_training(module: VivitModule, config: dict[str, Any]) -> None:
    """What a run that trains does to its model: freezing, LoRA, checkpointing, kernels, compiling.

    Raises:
        UserError: If there is nothing to freeze, no such kernel, or nothing to compile with.
    """
    what, lora_rank = config["optim"]["freeze"], config["optim"]["lora_rank"]
    if what is not None or lora_rank is not None:
        module.freeze_parts(what, lora_rank)
        if is_rank_zero():
            trained, total = size(module, trained=True), size(module)
            say(f"training {trained:,} of {total:,} parameters, the rest is frozen")
    for encoder in module.model.encoders:
        encoder.activation_checkpointing = config["model"]["activation_checkpointing"]
    module.force_kernel(config["model"]["attention_kernel"])
    if compiles(config):
        module.compile_blocks()


def build_trainer(
    config: dict[str, Any],
    run_dir: Path,
    watch: StopWatch | None = None,
    begun: Begun | None = None,
) -> tuple[Trainer, Checkpoints]:
    """The trainer with its callbacks and loggers, and the callback that knows the checkpoints.

    Args:
        config: The resolved configuration.
        run_dir: Where the run writes.
        watch: Is told of the run's progress.
        begun: The run that is resumed.

    Raises:
        UserError: If the machine has not what the configuration asks for.
    """
    callbacks = config["callbacks"]
    checkpoints = Checkpoints(
        run_dir / CHECKPOINTS,
        callbacks["monitor"],
        callbacks["every_n_train_steps"],
        callbacks["top_k"],
        callbacks["score_tolerance"],
    )
    patience = callbacks["patience_steps"]
    stopping = [] if patience is None else [EarlyStopping(callbacks["monitor"], patience)]
    arguments = dict(config["trainer"])
    if arguments["accumulate_grad_batches"] < 1:  # Lightning takes 0, and then divides by it
        raise UserError(
            "trainer.accumulate_grad_batches is the number of batches per optimiser step, 1 or "
            f"more; got {arguments['accumulate_grad_batches']}"
        )
    if arguments["deterministic"] is True and config["model"]["attention_kernel"] == "cudnn":
        raise UserError(
            "model.attention_kernel=cudnn has a backward pass that does not give the same bits "
            "twice, which trainer.deterministic=true asks for: set model.attention_kernel=auto "
            "(then it is flash), or trainer.deterministic=false"
        )
    arguments["precision"] = resolve_precision(arguments["precision"], arguments["accelerator"])
    strategy = resolve_strategy(arguments.pop("strategy"), arguments["precision"])
    arguments["devices"] = resolve_devices(config["trainer"])
    progress = [Progress(callbacks["refresh_rate"])] if arguments["enable_progress_bar"] else []
    trainer = with_lightning(
        Trainer,
        config["trainer"],
        **arguments,
        strategy=strategy,
        # Weights that are first gathered in inference mode could not be trained afterwards.
        inference_mode=not isinstance(strategy, Sharded),
        default_root_dir=run_dir,
        logger=build_loggers(config["logger"], run_dir, config["name"]),
        callbacks=[
            StepSeed(config["seed"]),
            SameSteps(begun),
            NonFinite(callbacks["non_finite"]),
            BrokenVideos(config["data"]["max_bad_fraction"]),
            Throughput(arguments["log_every_n_steps"]),
            Utilisation(arguments["log_every_n_steps"]),
            Ema(callbacks["ema_decay"]),
            *extra_callbacks(callbacks["extra"], begun is not None),
            *stopping,
            checkpoints,
            StopSignals(watch or StopWatch()),
            SameVideos(run_dir, begun is None or config["allow_other_videos"]),
            ConfigFile(run_dir, config),
            Start(config["model"]["name"], run_dir),
            FirstBatch(),
            *progress,
        ],
        plugins=[AtomicCheckpointIO()],
        use_distributed_sampler=False,  # the DataModule's own samplers share the videos
        enable_checkpointing=True,
    )
    if isinstance(trainer.strategy, DDPStrategy):
        trainer.strategy._timeout = timedelta(seconds=COLLECTIVE_TIMEOUT_SECONDS)
    return trainer, checkpoints


def first_batch(data: VideoDataModule, settings: dict[str, Any]) -> ClipBatch:
    """The first batch that training on one device gives to the model.

    Args:
        data: Set up for ``fit``.
        settings: Of the trainer; its accelerator and precision are used.

    Raises:
        UserError: If the accelerator is not there, or the batch cannot be made.
    """
    precision = resolve_precision(settings["precision"], settings["accelerator"])
    device = with_lightning(
        Fabric, settings, accelerator=settings["accelerator"], devices=1, precision=precision
    ).device
    decoded = next(iter(data.train_dataloader()))
    seen = data.augmented(decoded.to(device), step=0)
    dtype, _ = types_of(precision)
    return dataclasses.replace(seen, clips=seen.clips.to(dtype))


def with_lightning(make: Callable[..., T], settings: dict[str, Any], **arguments: Any) -> T:
    """Lightning's Trainer or Fabric, which says itself what is wrong with its arguments.

    Args:
        make: Which of them.
        settings: As the user gave them.
        **arguments: What it gets.

    Raises:
        UserError: If there is no GPU to accelerate with, or it refuses them, in its words.
    """
    if arguments["accelerator"] in ("gpu", "cuda") and not torch.cuda.is_available():
        raise UserError(
            f"trainer.accelerator={arguments['accelerator']}: no GPU that torch can use was found "
            "on this machine; set trainer.accelerator=cpu (or auto)"
        )
    try:
        return make(**arguments)
    except (ValueError, TypeError, RuntimeError, ImportError, MisconfigurationException) as error:
        names = ("accelerator", "devices", "num_nodes", "strategy", "precision")
        told = " ".join(f"trainer.{name}={settings[name]}" for name in names)
        raise UserError(f"Lightning refuses the group trainer ({told}): {error}") from None
