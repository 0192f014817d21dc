"""Eight steps of SGD as the original took them: our pieces against its recorded trainings."""

from typing import Any

import lightning
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tests.golden_files import GOLDEN, read, tensors, vivit_arguments
from vivit_train.data.batch import ClipBatch
from vivit_train.model.weights.scenic import convert
from vivit_train.module import VivitModule

ONE_HEAD, SEVERAL_HEADS = ("train_model1", "train_model4"), ("train_model2_multihead",)
COVERED = (*ONE_HEAD, *SEVERAL_HEADS)
STEPS = 8


def state(case: str, prefix: str) -> dict[str, Tensor]:
    """Recorded leaves under our names."""
    return convert(tensors(read(case)[1], prefix), case).state


def started(case: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """ViViT's arguments, and the weights that a recorded training starts from."""
    source = read(case)[0]["initial_params_from"].removesuffix(".npz")
    if not (GOLDEN / f"{source}.npz").is_file():
        pytest.skip(f"{case} starts from {source}.npz, which is not among the recordings")
    info, _ = read(source)
    meta = info["dataset_meta_data"]
    _, num_frames, height, width, _ = meta["input_shape"]
    arguments = vivit_arguments(info["config"], meta["num_classes"], num_frames, (height, width))
    return arguments, state(source, "params/")


def batches(case: str) -> list[tuple[Tensor, Tensor]]:
    """The two recorded batches: clips ``[B, C, T, H, W]`` and shares ``[B, K]``."""
    _, arrays = read(case)
    made = []
    for i in range(2):
        pixels = torch.from_numpy(arrays[f"batch{i}/inputs_uint8"]).float()  # [B, T, H, W, C]
        clips = (pixels * (1 / 255) * 2 - 1).permute(0, 4, 1, 2, 3)
        made.append((clips, torch.from_numpy(arrays[f"batch{i}/label"])))
    return made


def optim(case: str) -> dict[str, Any]:
    """Our configuration of a recorded training; an epoch has the two batches."""
    config = read(case)[0]["config"]
    return {
        "name": "sgd",
        "lr": config["lr_configs"]["base_learning_rate"],
        "momentum": config["optimizer_configs"]["momentum"],
        "weight_decay": config["l2_decay_factor"],
        "layer_decay": 1.0,
        "lr_batch_size": None,
        "warmup_epochs": config["lr_configs"]["warmup_steps"] / 2,
        "min_lr_fraction": 0.0,
        "schedule": {},
        "label_smoothing": config["label_smoothing"],
    }


class Recorder(lightning.Callback):
    """Takes down what each step does, as the original's recording has it."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.first_gradient: dict[str, Tensor] = {}

    def before_update(self, model: nn.Module, lr: float) -> None:
        """With the gradient as it is before clipping."""
        gradient = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        self.first_gradient = self.first_gradient or gradient
        self.steps.append({"lr": lr, "grad_norm": norm(gradient.values())})

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.before_update(pl_module.model, optimizer.param_groups[0]["lr"])

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: ClipBatch, batch_idx: int
    ) -> None:
        top1 = trainer.callback_metrics["train/top1"]
        self.steps[-1] |= {
            "loss": float(outputs["loss"]),
            "metric_correct": float(top1) * len(batch.labels),
        }
        trainer.should_stop = trainer.global_step == STEPS


def norm(tensors: Any) -> float:
    return float(torch.cat([tensor.double().flatten() for tensor in tensors]).norm())


def check(case: str, recorder: Recorder, model: nn.Module, optimizer: Any) -> None:
    """Everything that was recorded, step by step and leaf by leaf."""
    _, arrays = read(case)
    steps = recorder.steps
    assert len(steps) == STEPS
    assert steps[0]["lr"] == 0
    for name, tolerance in {"lr": 1e-7, "loss": 1e-4, "grad_norm": 1e-4}.items():
        ours = [step[name] for step in steps]
        np.testing.assert_allclose(ours, arrays[f"per_step/{name}"], rtol=tolerance, err_msg=name)
    if "per_step/metric_correct" in arrays:  # not for several heads
        ours = [step["metric_correct"] for step in steps]
        np.testing.assert_array_equal(ours, arrays["per_step/metric_correct"])
    leaves = {
        "grad_step0/": recorder.first_gradient,
        "params_final/": dict(model.named_parameters()),
    }
    for prefix, found in leaves.items():
        expected = state(case, prefix)
        assert found.keys() == expected.keys()
        for name, leaf in expected.items():
            torch.testing.assert_close(
                found[name].detach(), leaf, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
            )
    momenta = [entry["momentum_buffer"] for entry in optimizer.state.values()]
    assert norm(momenta) == pytest.approx(float(arrays["momentum_norm_final"]), rel=1e-4)


class Recorded(lightning.LightningDataModule):
    """The recorded batches, as our DataModule makes them after mixup."""

    def __init__(self, case: str) -> None:
        super().__init__()
        self.batches = [
            ClipBatch(
                clips=clips,
                labels=shares.argmax(dim=1),
                shares=shares,
                indices=torch.arange(4),
                decoded=torch.ones(4, dtype=torch.bool),
                seeds=[],
            )
            for clips, shares in batches(case)
        ]

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.batches, batch_size=None)


@pytest.mark.parametrize("case", COVERED)
@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*no `val_dataloader`")
def test_lightning_trains_as_the_original(case: str) -> None:
    """`VivitModule` in Lightning's trainer."""
    config = read(case)[0]["config"]
    splits = config["dataset_configs"]["class_splits"] if case in SEVERAL_HEADS else []
    arguments, initial = started(case)
    module = VivitModule(
        model=arguments,
        class_names=[str(i) for i in range(arguments["num_classes"])],
        processor={}, sampling={}, optim=optim(case), config={},
        heads={f"head {i}": size for i, size in enumerate(splits)},
    )  # fmt: skip
    module.model.load_state_dict(initial)
    recorder = Recorder()
    trainer = lightning.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[recorder],
        gradient_clip_val=config["max_grad_norm"], gradient_clip_algorithm="norm",
        max_epochs=config["lr_configs"]["steps_per_cycle"] // 2,
    )  # fmt: skip
    trainer.fit(module, datamodule=Recorded(case))
    check(case, recorder, module.model, trainer.optimizers[0])


@pytest.mark.parametrize("case", COVERED)
def test_the_recordings_clip_and_warm_up(case: str) -> None:
    """What makes them a test: clipping bites, and the rate goes up and down."""
    info, arrays = read(case)
    assert info["steps"] == STEPS
    assert (arrays["per_step/grad_norm"] > info["config"]["max_grad_norm"]).any()
    assert 0 < np.argmax(arrays["per_step/lr"]) < STEPS - 1
