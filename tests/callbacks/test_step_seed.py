from types import SimpleNamespace

import torch

from vivit_train.callbacks.step_seed import StepSeed


class TestStepSeed:
    def draws(self, step: int, rank: int = 0, seed: int = 0) -> list[float]:
        torch.rand(17)  # what was drawn before does not matter
        loop = SimpleNamespace(epoch_loop=SimpleNamespace(total_batch_idx=step))
        trainer = SimpleNamespace(fit_loop=loop, global_rank=rank)
        StepSeed(seed).on_train_batch_start(trainer, None, None, 0)
        return torch.rand(4).tolist()

    def test_the_same_step_and_rank_draw_the_same(self) -> None:
        assert self.draws(3, 1) == self.draws(3, 1)

    def test_all_else_differs(self) -> None:
        keys = [(0, 0), (1, 0), (0, 1), (1, 1), (10, 0), (0, 0, 1), (1, 0, 1)]
        assert len({tuple(self.draws(*key)) for key in keys}) == len(keys)
