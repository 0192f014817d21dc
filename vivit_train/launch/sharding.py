"""Sharded training (FSDP2): each process holds a part of every weight, gradient and average."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from vivit_train.errors import UserError
from vivit_train.launch.processes import COLLECTIVE_TIMEOUT_SECONDS
from vivit_train.model.vivit import ViViT

# Lightning's names, and its short ones of the first two.
PRECISIONS = ("32-true", "bf16-mixed", "bf16-true", "32", "bf16")


class Sharded(ModelParallelStrategy):
    """Fully sharded data parallelism over all processes, with the checkpoints of one process.

    Weights, gradients and optimiser state are shared between the processes; each gathers the
    weights of a block for as long as it computes with them (torch's `fully_shard`, after ZeRO-3,
    arXiv 1910.02054). A checkpoint is one file with whole tensors, of which each process takes its
    part. Lightning's own strategy numbers the optimiser's state in it by the module's order of
    parameters, and not by that of the optimiser's groups: elsewhere it would be mixed up.
    """

    def __init__(self) -> None:
        super().__init__(
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            timeout=timedelta(seconds=COLLECTIVE_TIMEOUT_SECONDS),
        )

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Yes: the checkpoint's optimiser state is handed to `load_optimizer_state_dict`."""
        return True

    def setup_environment(self) -> None:
        """Starts the process group, and a device mesh over all processes."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def shard(self, model: ViViT) -> None:
        """Shards a model in place: each block of each encoder, and together all the rest.

        Gradients are summed in float32. Mixed precision is autocast's, as everywhere: blocks
        gathered in bf16 would have norms in bf16 too.

        Args:
            model: The same in all processes.
        """
        if isinstance(model, FSDPModule):  # by the fit that comes before the test
            return
        mesh = self.device_mesh["data_parallel"]
        policy = MixedPrecisionPolicy(reduce_dtype=torch.float32)
        for encoder in model.encoders:
            for block in encoder.blocks:
                fully_shard(block, mesh=mesh, mp_policy=policy)
        # Not kept for the backward pass, as is usual for the outermost module: after a validation
        # there is none, and callbacks would meet gathered weights that are thrown away later.
        fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=True)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The whole weights on rank 0; called by all processes."""
        assert self.lightning_module is not None
        return gathered(self.lightning_module.state_dict())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The optimiser's whole state on rank 0, as one process has it; called by all."""
        # Of the class above Lightning's, which numbers it by the optimiser's groups.
        content: dict[str, Any] = super(ModelParallelStrategy, self).optimizer_state(optimizer)
        state = {index: gathered(tensors) for index, tensors in content["state"].items()}
        return {**content, "state": state}

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """The checkpoint, mapped and not read: no process has it whole in its memory."""
        return torch.load(checkpoint_path, map_location="cpu", weights_only=weights_only, mmap=True)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Takes this process's part of the weights."""
        assert self.lightning_module is not None
        ours = self.lightning_module.state_dict()
        theirs = checkpoint["state_dict"].items()
        state = {name: shard_of(value, ours.get(name)) for name, value in theirs}
        self.lightning_module.load_state_dict(state, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Takes this process's part of the optimiser's state."""
        for optimizer, content in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            state = {
                index: {
                    # Steps are counted in a tensor, which all processes have.
                    name: shard_of(value, parameters[index] if name != "step" else None)
                    for name, value in tensors.items()
                }
                for index, tensors in content["state"].items()
            }
            # Which kernels it has does not follow from the run that saved.
            kernels = [{k: g[k] for k in ("fused", "foreach")} for g in optimizer.param_groups]
            groups = [
                {**theirs, **ours}
                for theirs, ours in zip(content["param_groups"], kernels, strict=True)
            ]
            optimizer.load_state_dict({"state": state, "param_groups": groups})


def resolve_strategy(name: str, precision: str) -> str | Sharded:
    """What Lightning takes for ``trainer.strategy``: ``fsdp`` is `Sharded`, others are its own.

    Raises:
        UserError: For another kind of FSDP, or a precision that sharded training does not have.
    """
    if "fsdp" not in name:
        return name
    if name != "fsdp":
        raise UserError(
            f"trainer.strategy={name} is not supported: trainer.strategy=fsdp shards weights, "
            "gradients and optimiser state (FSDP2)"
        )
    if precision not in PRECISIONS:
        raise UserError(
            f"trainer.strategy=fsdp does not support trainer.precision={precision}: use "
            "bf16-mixed, bf16-true or 32-true"
        )
    return Sharded()


@torch.no_grad()
def gathered(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Whole tensors for a checkpoint, which rank 0 writes; called by all processes.

    Args:
        tensors: Sharded ones; others are left as they are.

    Returns:
        On rank 0 all tensors, the sharded ones whole and on the CPU, one after the other; on the
        other ranks without those.
    """
    whole = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, DTensor):
            is_rank_zero = tensor.device_mesh.get_rank() == 0
            tensor = tensor.full_tensor()
            if not is_rank_zero:
                continue
            tensor = tensor.cpu()
        whole[name] = tensor
    return whole


def shard_of(tensor: Tensor, like: Tensor | None) -> Tensor:
    """This process's part of a whole tensor.

    Args:
        tensor: The same in all processes.
        like: Sharded as the result is to be. If it is not sharded the result is ``tensor``.
    """
    if not isinstance(like, DTensor):
        return tensor
    shard = distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)
    return shard.clone()  # else a view, which keeps the whole
