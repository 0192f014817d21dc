"""What a colleague would check before a long run: data, loss, gradients, speed, memory."""

import math
import os
import time
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from lightning import Fabric
from torch import Tensor

from vivit_train.build import build_module, first_batch, open_data
from vivit_train.class_names import shorten
from vivit_train.data.batch import Batch, ClipBatch
from vivit_train.data.datamodule import VideoDataModule
from vivit_train.data.loader import available_cores
from vivit_train.data.rates import clip_in_words
from vivit_train.describe.counts import build
from vivit_train.describe.memory import training_memory
from vivit_train.errors import UserError
from vivit_train.launch.devices import resolve_precision
from vivit_train.losses import loss_of
from vivit_train.module import VivitModule
from vivit_train.optim import build_optimizer, freeze
from vivit_train.preflight.advice import advice
from vivit_train.preflight.finding import Finding
from vivit_train.preflight.heads import of_the_length, of_the_sources, read_heads
from vivit_train.preflight.schedule import of_the_steps
from vivit_train.preflight.span import fit_sampling
from vivit_train.preflight.videos import look_at_videos

# Any model must be able to overfit a few clips, in so many steps.
MAX_CLIPS = 8
MOST_STEPS = 100
# A new head is zero or nearly so: its loss is ln K, but for what smoothing and drawing add.
LOSS_TOLERANCE = 0.25


def examine(config: dict[str, Any], seconds: float = 60.0) -> Iterator[Finding]:
    """Checks a run before it starts, on one device.

    Args:
        config: The resolved configuration.
        seconds: How long to try to overfit one batch, at most, and how long to look at
            videos.

    Yields:
        One finding for each check, in order; the first that fails for want of what the others
        need ends it.
    """
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", UserWarning)
            config, data = open_data(config, "fit")
            config = fit_sampling(config, data)
        yield _counts(data)
        yield from (Finding("warn", "data", str(warning.message)) for warning in told)
        start = time.perf_counter()
        batch = first_batch(data, config["trainer"])
        yield from _look_at(batch, data, time.perf_counter() - start)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", UserWarning)
            module = build_module(config, data)
        yield from (Finding("warn", "weights", str(warning.message)) for warning in told)
    except UserError as error:
        yield Finding("fail", "start", str(error))
        return
    yield from (Finding("warn", "settings", line) for line in advice(config, data))
    yield of_the_steps(config, data)
    yield from _of_the_heads(data)
    yield from look_at_videos(config, module.model, data, seconds)
    patient = Patient(config, module, batch)
    yield patient.loss_at_start()
    yield patient.learns_by_heart(seconds)
    yield patient.gradients()
    yield patient.memory()
    yield _time(config, data, patient.seconds_per_clip)


def _counts(data: VideoDataModule) -> Finding:
    train, val = len(data.records["train"]), len(data.records["val"])
    text = f"{train} training and {val} validation videos in {len(data.class_names)} classes"
    clip = clip_in_words(data.sampling, data.video_rate)
    return Finding("ok", "data", f"{text}; a clip is {clip}")


def _of_the_heads(data: VideoDataModule) -> Iterator[Finding]:
    heads = read_heads(data)
    if heads:
        yield of_the_length(heads, data)
        yield of_the_sources(heads, data.class_names)


def _look_at(batch: ClipBatch, data: VideoDataModule, seconds: float) -> Iterator[Finding]:
    """The first batch: could it be decoded, and is there a picture in it?"""
    broken = [str(error) for error in batch.broken]
    if broken:
        yield Finding("warn", "decoding", f"{shorten(broken)}: run `vivit check` on the data set")
    else:
        text = f"the first batch, {len(batch.seeds)} clips, took {seconds:.1f} s with start-up"
        yield Finding("ok", "decoding", text)
    clips = batch.clips
    low, high = (
        torch.tensor(bound, device=clips.device) for bound in zip(*data.processor.value_range)
    )
    smallest, largest = clips.float().amin(dim=(0, 2, 3, 4)), clips.float().amax(dim=(0, 2, 3, 4))
    flat = [row for row in range(len(clips)) if clips[row].float().std() < 1e-3]
    names = [data.records["train"].name(int(batch.indices[row])) for row in flat]
    shape = f"{list(clips.shape)} in [{smallest.min():.2f}, {largest.max():.2f}]"
    # bfloat16 rounds; interpolation never leaves the range.
    if (
        not torch.isfinite(clips).all()
        or (smallest < low - 0.02).any()
        or (largest > high + 0.02).any()
    ):
        yield Finding(
            "fail", "pixels", f"{shape}, outside the processor's range: look at `vivit show-batch`"
        )
    elif flat:
        yield Finding("warn", "pixels", f"{shape}, but of one colour throughout: {shorten(names)}")
    else:
        yield Finding("ok", "pixels", shape)


class Patient:
    """A model and one batch, on the run's device in the run's precision.

    Args:
        config: The resolved configuration.
        module: The model to train.
        batch: What it sees; up to `MAX_CLIPS` clips of it are used.
    """

    def __init__(self, config: dict[str, Any], module: VivitModule, batch: ClipBatch) -> None:
        settings = config["trainer"]
        precision = resolve_precision(settings["precision"], settings["accelerator"])
        self.config = config
        self.precision = str(precision)
        self.heads = module.heads
        self.multi_label = module.multi_label
        self.fabric = Fabric(accelerator=settings["accelerator"], devices=1, precision=precision)  # type: ignore[arg-type]
        # Dropout and drop path off: what is asked is whether the model can learn at all.
        model = module.model.eval()
        optimizer = build_optimizer(model, config["optim"])
        self.model, self.optimizer = self.fabric.setup(model, optimizer)
        self.clips = batch.clips[:MAX_CLIPS].to(self.fabric.device)
        self.targets = batch.targets[:MAX_CLIPS].to(self.fabric.device)
        self.losses: list[float] = []
        self.seconds_per_clip = float("nan")

    def loss_at_start(self) -> Finding:
        """A model that knows nothing has a loss of ln K; multi-label of ln 2 for each class."""
        with torch.no_grad():
            loss = float(self._loss(self.model(self.clips)))
        sizes = list(self.heads.values()) or [2 if self.multi_label else self.model.num_classes]
        expected = sum(math.log(size) for size in sizes) / len(sizes)
        text = f"{loss:.3f}; of guessing it is {expected:.3f}"
        if not math.isfinite(loss):
            return Finding(
                "fail", "first loss", f"{text}: the weights or the pixels are not finite"
            )
        if loss > expected + LOSS_TOLERANCE * max(1.0, expected):
            cure = "is the processor the one that the weights were trained with?"
            return Finding("warn", "first loss", f"{text}: worse than guessing, {cure}")
        is_new = self.config["model"]["pretrained"] is None
        if is_new and loss < expected - LOSS_TOLERANCE:
            return Finding("warn", "first loss", f"{text}: better than an untrained model can be")
        return Finding("ok", "first loss", text)

    def learns_by_heart(self, seconds: float) -> Finding:
        """Steps on one batch with the run's optimiser, until its loss has halved."""
        times: list[float] = []
        # A new head, and then LoRA's own B, is zero and lets no gradient through in its first step.
        least_steps = 2 if self.config["optim"]["lora_rank"] is None else 3
        start = time.perf_counter()
        while len(self.losses) < MOST_STEPS and (
            len(self.losses) < least_steps or time.perf_counter() - start < seconds
        ):
            begun = time.perf_counter()
            self.optimizer.zero_grad()
            loss = self._loss(self.model(self.clips))
            self.fabric.backward(loss)
            clip = self.config["trainer"]["gradient_clip_val"]
            if clip:
                self.fabric.clip_gradients(self.model, self.optimizer, max_norm=clip)
            self.optimizer.step()
            self.losses.append(float(loss.detach()))  # waits for the device
            times.append(time.perf_counter() - begun)
            if len(self.losses) >= least_steps and self.losses[-1] < self.losses[0] / 2:
                break
        # The first step also warms up.
        self.seconds_per_clip = min(times) / len(self.clips)
        first, last, steps = self.losses[0], self.losses[-1], len(self.losses)
        text = f"loss {first:.3f} -> {last:.3f} in {steps} steps on {len(self.clips)} clips"
        if not math.isfinite(last):
            return Finding("fail", "overfitting", f"{text}: lower optim.lr, or raise the precision")
        if last < first / 2:
            return Finding("ok", "overfitting", text)
        if steps < MOST_STEPS:
            return Finding("warn", "overfitting", f"{text}: too few to judge by, raise --seconds")
        cure = "raise optim.lr, or find out what keeps the model from learning"
        return Finding("fail", "overfitting", f"{text}: not even one batch is learnt; {cure}")

    def gradients(self) -> Finding:
        """Whether the last step reached every parameter that is to be trained."""
        named = [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]
        missing = [name for name, p in named if p.grad is None or not bool(p.grad.any())]
        broken = [name for name, p in named if p.grad is not None and not p.grad.isfinite().all()]
        if broken:
            return Finding("fail", "gradients", f"not finite in {shorten(broken)}: lower optim.lr")
        if missing:
            return Finding("fail", "gradients", f"none reach {shorten(missing)}")
        return Finding("ok", "gradients", f"reach all {len(named)} trainable parameters")

    def memory(self) -> Finding:
        """What a full batch takes, estimated, beside what there is."""
        batch_size = self.config["data"]["batch_size"]
        device = self.fabric.device
        model = build(self.model.config)
        clip = (self.clips.shape[2], self.clips.shape[3], self.clips.shape[4])
        optim = self.config["optim"]
        freeze(model, optim["freeze"], optim["lora_rank"])
        need = training_memory(model, clip, batch_size, self.precision, optim["name"]).total / 2**30
        if device.type == "cuda":
            there = torch.cuda.mem_get_info(device)[1] / 2**30
        else:
            there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        text = f"about {need:.1f} GiB for data.batch_size={batch_size}, of {there:.0f} GiB"
        if need > 0.95 * there:
            cure = "lower data.batch_size and raise trainer.accumulate_grad_batches as much"
            return Finding("fail", "memory", f"{text}: {cure}")
        return Finding("ok", "memory", text)

    def _loss(self, logits: Tensor) -> Tensor:
        return loss_of(logits, self.targets, self.heads, self.multi_label)


def _time(config: dict[str, Any], data: VideoDataModule, seconds_per_clip: float) -> Finding:
    """How long the run would take, and whether the step or the loader decides that."""
    settings = config["trainer"]
    loader = data.train_dataloader()
    loaded = _seconds_per_clip(loader, seconds=10)
    clips_per_epoch = len(loader) * config["data"]["batch_size"]
    text = f"a step takes {1 / seconds_per_clip:.1f} clips/s, the loader gives {1 / loaded:.1f}"
    epoch = max(loaded, seconds_per_clip) * clips_per_epoch
    text += f": about {_clock(epoch)} per epoch on one device"
    if (settings["max_epochs"] or 0) > 0:
        text += f", {_clock(epoch * settings['max_epochs'])} for {settings['max_epochs']} epochs"
    if loaded > 1.25 * seconds_per_clip:
        cure = _more_workers(max(1, data.num_workers), loaded / seconds_per_clip)
        return Finding("warn", "time", f"{text}; the device waits for data: {cure}")
    return Finding("ok", "time", text)


def _more_workers(num_workers: int, times: float) -> str:
    """What helps where the loader takes so many times as long for a clip as the step."""
    return (
        f"to keep up, the videos as they are need about {math.ceil(num_workers * times)} decoding "
        f"processes of a core each, of which {num_workers} ran and this machine has cores for "
        f"{available_cores()}: raise data.num_workers, or make the videos faster to decode with "
        "`vivit prepare`"
    )


def _seconds_per_clip(loader: Iterable[Batch], seconds: float) -> float:
    """The loader's steady pace: its first batch, with the workers' start, does not count."""
    clips, start = 0, 0.0
    for batch in loader:
        now = time.perf_counter()
        if not start:
            start, last = now, now
            continue
        clips, last = clips + len(batch.seeds), now
        if now - start > seconds:
            break
    return (last - start) / clips if clips else float("nan")


def _clock(seconds: float) -> str:
    """Hours, minutes and seconds: ``1:02:03``; ``?`` where nothing could be measured."""
    if math.isnan(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
