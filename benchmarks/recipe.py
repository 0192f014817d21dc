"""What users of Hugging Face's library write, for `end_to_end.py`, and the work that both sides do.

A data set whose items are decoded and go through `VivitImageProcessor` in the worker, PyTorch's own
collation, `VivitForVideoClassification` (sdpa) and AdamW in a loop; in evaluation each of 4 clips
of a video is an item, cropped 3 times.
"""

import argparse
import random
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vivit_train.launch import devices
from vivit_train.video.decode import VideoReader
from vivit_train.video.sampling import spread_windows

FRAME_STRIDE, IMAGE_SIZE = 2, 224
TEMPORAL_VIEWS, SPATIAL_VIEWS = 4, 3
CLASSES = ("first", "second")
LEARNING_RATE = 1e-4
MODELS: dict[str, dict[str, Any]] = {
    "tiny": {
        "num_frames": 4, "tubelet_size": [4, 56, 56], "hidden_size": 16, "num_layers": 1,
        "num_heads": 2, "mlp_size": 32,
    },
    "small": {
        "num_frames": 32, "tubelet_size": [4, 32, 32], "hidden_size": 96, "num_layers": 4,
        "num_heads": 2, "mlp_size": 384,
    },
    "b": {
        "num_frames": 32, "tubelet_size": [2, 16, 16], "hidden_size": 768, "num_layers": 12,
        "num_heads": 12, "mlp_size": 3072,
    },
}  # fmt: skip
EPOCHS = ("training", "evaluation")
# Seconds of an epoch: `wait` and `step` follow each other in the main process, and so does
# `process` of ours; `decode`, and `process` of the recipe, are sums over the workers.
PARTS = ("decode", "process", "wait", "step")


class TrainClips(Dataset[dict[str, Any]]):
    """A random clip of each row, as `VivitForVideoClassification` wants it."""

    def __init__(self, root: Path, num_frames: int) -> None:
        from transformers import VivitImageProcessor

        self.num_frames = num_frames
        self.rows = read_rows(root / "train.csv")
        self.processor = VivitImageProcessor()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        start = time.perf_counter()
        path, label = self.rows[index]
        with VideoReader(path) as video:
            span = self.num_frames * FRAME_STRIDE
            first = random.randint(0, max(0, video.num_frames - span))
            last = video.num_frames - 1
            frames = video.read([min(first + t, last) for t in range(0, span, FRAME_STRIDE)])
        decoded = time.perf_counter()
        pixels = self.processor(list(frames), return_tensors="pt")["pixel_values"][0]
        times = torch.tensor([decoded - start, time.perf_counter() - decoded])
        return {"pixel_values": pixels, "labels": label, "seconds": times}


class EvalClips(Dataset[dict[str, Any]]):
    """Each temporal view of each video by itself, in three crops ``[3, T, 3, h, w]``."""

    def __init__(self, root: Path, num_frames: int) -> None:
        from transformers import VivitImageProcessor

        self.num_frames = num_frames
        self.rows = read_rows(root / "val.csv")
        self.processor = VivitImageProcessor(do_center_crop=False)

    def __len__(self) -> int:
        return TEMPORAL_VIEWS * len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        start = time.perf_counter()
        row, view = divmod(index, TEMPORAL_VIEWS)
        path, label = self.rows[row]
        with VideoReader(path) as video:
            windows = spread_windows(
                video.num_frames, self.num_frames, FRAME_STRIDE, TEMPORAL_VIEWS
            )
            frames = video.read(windows[view])
        decoded = time.perf_counter()
        pixels = self.processor(list(frames), return_tensors="pt")["pixel_values"][0]
        height, width = pixels.shape[-2:]
        top = (height - IMAGE_SIZE) // 2
        lefts = (0, (width - IMAGE_SIZE) // 2, width - IMAGE_SIZE)
        crops = torch.stack(
            [pixels[..., top : top + IMAGE_SIZE, left : left + IMAGE_SIZE] for left in lefts]
        )
        times = torch.tensor([decoded - start, time.perf_counter() - decoded])
        return {"pixel_values": crops, "labels": label, "row": row, "seconds": times}


class Recipe:
    """The plain loop over both."""

    def __init__(self, root: Path, args: argparse.Namespace) -> None:
        import transformers
        from transformers import VivitConfig, VivitForVideoClassification

        transformers.utils.logging.set_verbosity_error()
        size, self.args = MODELS[args.model], args
        config = VivitConfig(
            image_size=IMAGE_SIZE,
            num_frames=size["num_frames"],
            tubelet_size=size["tubelet_size"],
            hidden_size=size["hidden_size"],
            num_hidden_layers=size["num_layers"],
            num_attention_heads=size["num_heads"],
            intermediate_size=size["mlp_size"],
            num_labels=len(CLASSES),
            attn_implementation="sdpa",
        )
        self.model = VivitForVideoClassification(config).to(args.device)
        self.train_set = TrainClips(root, size["num_frames"])
        self.eval_set = EvalClips(root, size["num_frames"])
        uses_bf16 = devices.resolve_precision("auto", args.device) == "bf16-mixed"
        self.autocast = torch.autocast(args.device, torch.bfloat16, enabled=uses_bf16)

    def training(self) -> dict[str, float]:
        """Seconds of an epoch, and of its parts."""
        start, seconds = time.perf_counter(), dict.fromkeys(PARTS, 0.0)
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=LEARNING_RATE)
        self.model.train()
        for batch in self._batches(self.train_set, self.args.batch, seconds, shuffle=True):
            with self.autocast:
                output = self.model(batch["pixel_values"], labels=batch["labels"])
            output.loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return self._end(seconds, start)

    @torch.no_grad()
    def evaluation(self) -> dict[str, float]:
        """The same for all views of the videos, whose logits are averaged."""
        start, seconds = time.perf_counter(), dict.fromkeys(PARTS, 0.0)
        self.model.eval()
        logits: dict[int, list[Tensor]] = {}
        videos_per_batch = max(1, self.args.batch // SPATIAL_VIEWS)
        for batch in self._batches(self.eval_set, videos_per_batch, seconds, shuffle=False):
            crops = batch["pixel_values"]  # [B, 3, T, 3, h, w]
            with self.autocast:
                output = self.model(crops.flatten(0, 1)).logits.float()
            for row, views in zip(batch["row"].tolist(), output.split(SPATIAL_VIEWS)):
                logits.setdefault(row, []).append(views)
        for views in logits.values():
            torch.cat(views).mean(dim=0).argmax().item()
        return self._end(seconds, start)

    def _batches(self, dataset: Any, batch_size: int, seconds: dict[str, float], shuffle: bool):  # type: ignore[no-untyped-def]
        loader = DataLoader(
            dataset,
            batch_size=batch_size,
            shuffle=shuffle,
            num_workers=self.args.workers,
            pin_memory=self.args.device == "cuda",
        )
        waits = time.perf_counter()
        for batch in loader:
            seconds["wait"] += time.perf_counter() - waits
            decode, process = batch["seconds"].sum(dim=0).tolist()
            seconds["decode"] += decode
            seconds["process"] += process
            for name in ("pixel_values", "labels"):
                batch[name] = batch[name].to(self.args.device, non_blocking=True)
            yield batch
            waits = time.perf_counter()

    def _end(self, seconds: dict[str, float], start: float) -> dict[str, float]:
        if self.args.device == "cuda":
            torch.cuda.synchronize()
        total = time.perf_counter() - start
        return {**seconds, "step": total - seconds["wait"], "total": total}


def read_rows(listing: Path) -> list[tuple[Path, int]]:
    """Path and class of each row of a list."""
    rows = [line.split(",") for line in listing.read_text().splitlines()]
    return [(listing.parent / path, CLASSES.index(name)) for path, name in rows]
