import pickle

import pytest
import torch
from lightning.pytorch.plugins import DoublePrecision, HalfPrecision

from vivit_train.data.clips import Clips


def clips() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randint(256, shape, generator=generator, dtype=torch.uint8)
        for shape in ((2, 5, 7, 3), (1, 2, 3, 3), (2, 2, 5, 6, 3))
    ]


def same(ours, theirs) -> bool:
    return len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))


def test_clips_of_any_size_lie_in_one_block() -> None:
    packed = Clips(clips())
    assert same(packed, clips())
    assert len({clip.untyped_storage().data_ptr() for clip in packed}) == 1
    assert all(clip.data_ptr() % 64 == packed[0].data_ptr() % 64 for clip in packed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.uint8])
def test_of_any_dtype(dtype: torch.dtype) -> None:
    parts = [clip.to(dtype) for clip in clips()]
    packed = Clips(parts)
    assert same(packed, parts)
    assert packed[0].dtype == dtype


def test_clips_that_do_not_lie_in_order() -> None:
    turned = [clip.transpose(1, 2).flip(0) for clip in clips()]
    assert same(Clips(turned), turned)


def test_they_move_without_a_copy_of_each() -> None:
    packed = Clips(clips())
    calls = []
    moved = packed.moved(lambda block: calls.append(block) or block + 1)
    assert len(calls) == 1
    assert same(moved, [clip + 1 for clip in clips()])


def test_none() -> None:
    for empty in (Clips(), Clips([])):
        assert empty == []
        assert empty.moved(lambda block: block + 1) == []
    nothing = Clips([torch.zeros(0, 3, dtype=torch.uint8)])
    assert nothing[0].shape == (0, 3)


def test_pickling_keeps_the_block_one() -> None:
    packed = pickle.loads(pickle.dumps(Clips(clips())))
    assert isinstance(packed, Clips)
    assert same(packed, clips())
    assert len({clip.untyped_storage().data_ptr() for clip in packed}) == 1


def test_a_library_may_take_them_apart() -> None:
    """As Lightning's plugins do for half precision and double."""
    packed = Clips(clips())
    for precision in (HalfPrecision("bf16-true"), DoublePrecision()):
        rebuilt = precision.convert_input({"frames": packed})["frames"]
        assert isinstance(rebuilt, Clips)
        assert same(rebuilt, packed)
        assert same(rebuilt.moved(lambda block: block + 1), [clip + 1 for clip in clips()])
