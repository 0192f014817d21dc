"""Position interpolation against SciPy's zoom (the original's) and a formula written by hand."""

import numpy as np
import pytest
import scipy.ndimage
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vivit_train.model.pos_embed import Grid, interpolate_positions

PAIRS = [
    ((16, 14, 14), (16, 18, 18)),  # 224 -> 288
    ((16, 14, 14), (16, 14, 20)),  # 224x320
    ((16, 14, 14), (8, 14, 14)),  # 32 -> 16 frames
    ((16, 14, 14), (32, 14, 14)),
    ((4, 6, 10), (7, 3, 5)),
    ((2, 3, 4), (5, 7, 3)),
    ((3, 5, 2), (1, 1, 1)),
    ((1, 4, 3), (6, 4, 3)),
]
grids = st.tuples(*[st.integers(1, 6)] * 3)


def random_table(grid: Grid, num_prefix: int = 0, width: int = 5) -> torch.Tensor:
    rows = num_prefix + int(np.prod(grid))
    return torch.randn(1, rows, width, generator=torch.Generator().manual_seed(0))


def resample_by_hand(volume: np.ndarray, target: Grid) -> np.ndarray:
    """Linear along one axis after another: the ends stay, the rest is evenly spaced between."""
    for axis, size in enumerate(target):
        last = volume.shape[axis] - 1
        places = np.linspace(0, last, size) if size > 1 else np.zeros(1)
        left = np.minimum(np.floor(places).astype(int), max(last - 1, 0))
        share = (places - left).reshape([-1 if a == axis else 1 for a in range(volume.ndim)])
        right = np.minimum(left + 1, last)
        volume = (1 - share) * volume.take(left, axis) + share * volume.take(right, axis)
    return volume


@pytest.mark.parametrize("num_prefix", [0, 1, 2])
@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_separable_linear(source: Grid, target: Grid, num_prefix: int) -> None:
    table = random_table(source, num_prefix)
    resampled = interpolate_positions(table, source, target, num_prefix)
    volume = table[0, num_prefix:].double().reshape(*source, -1).numpy()
    expected = resample_by_hand(volume, target).reshape(-1, volume.shape[-1])
    np.testing.assert_allclose(resampled[0, num_prefix:], expected, rtol=0, atol=5e-6)
    assert torch.equal(resampled[:, :num_prefix], table[:, :num_prefix])


@pytest.mark.parametrize("axis", [0, 1, 2], ids=["time", "height", "width"])
@pytest.mark.parametrize(("old", "new"), [(14, 18), (14, 20), (16, 8), (16, 32), (7, 3), (2, 9)])
def test_scipy_zoom_along_each_axis(axis: int, old: int, new: int) -> None:
    source, target = [3, 4, 5], [3, 4, 5]
    source[axis], target[axis] = old, new
    table = random_table(tuple(source))
    resampled = interpolate_positions(table, tuple(source), tuple(target))
    zoom = [b / a for a, b in zip(source, target)] + [1]
    volume = table[0].reshape(*source, -1).double().numpy()
    expected = scipy.ndimage.zoom(volume, zoom, order=1, grid_mode=False)
    np.testing.assert_allclose(resampled[0].reshape(*target, -1), expected, rtol=0, atol=5e-6)


def test_native_grid_is_the_identity_to_the_bit() -> None:
    table = random_table((4, 3, 5), num_prefix=1).bfloat16()
    assert torch.equal(interpolate_positions(table, (4, 3, 5), (4, 3, 5), 1), table)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_tables_are_computed_in_float32(dtype: torch.dtype) -> None:
    table = random_table((4, 6, 10), num_prefix=1).to(dtype)
    resampled = interpolate_positions(table, (4, 6, 10), (7, 3, 5), 1)
    exact = interpolate_positions(table.float(), (4, 6, 10), (7, 3, 5), 1)
    assert resampled.dtype == dtype
    assert torch.equal(resampled, exact.to(dtype))


def test_float64_tables_keep_their_precision() -> None:
    table = random_table((4, 6, 10)).double()
    resampled = interpolate_positions(table, (4, 6, 10), (7, 3, 5))
    expected = resample_by_hand(table[0].reshape(4, 6, 10, -1).numpy(), (7, 3, 5))
    np.testing.assert_allclose(resampled[0].reshape(7, 3, 5, -1), expected, rtol=0, atol=1e-13)


def test_gradients_flow_to_the_table() -> None:
    table = random_table((2, 3, 4), num_prefix=1).double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: interpolate_positions(x, (2, 3, 4), (3, 5, 2), 1), table
    )
    interpolate_positions(table, (2, 3, 4), (3, 5, 4), 1).sum().backward()
    assert (table.grad != 0).all()


@pytest.mark.parametrize("target", [(2, 3, 4), (4, 4, 4)])
def test_wrong_number_of_rows(target: Grid) -> None:
    message = r"table with 24 rows does not fit 1 prefix tokens \+ a 2x3x4 grid = 25"
    with pytest.raises(ValueError, match=message):
        interpolate_positions(torch.zeros(1, 24, 8), (2, 3, 4), target, num_prefix=1)


@settings(deadline=None)
@given(source=grids, target=grids, value=st.floats(-10, 10, width=32))
def test_constant_tables_stay_constant(source: Grid, target: Grid, value: float) -> None:
    table = torch.full((1, int(np.prod(source)), 2), value)
    resampled = interpolate_positions(table, source, target)
    torch.testing.assert_close(resampled, torch.full((1, int(np.prod(target)), 2), value))


@settings(deadline=None)
@given(source=grids, target=grids)
def test_linear_ramps_stay_linear(source: Grid, target: Grid) -> None:
    """Coordinates from 0 to 1 along each axis are the same coordinates on any grid."""

    def ramps(grid: Grid, ends: Grid) -> torch.Tensor:
        # An axis of one position is its start, on either side.
        axes = [torch.linspace(0, 1 if end > 1 else 0, n) for n, end in zip(grid, ends)]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(1, -1, 3)

    resampled = interpolate_positions(ramps(source, source), source, target)
    torch.testing.assert_close(resampled, ramps(target, source), rtol=0, atol=1e-6)
