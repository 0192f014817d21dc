import numpy as np
import pytest
import torch

from vivit_train.model.vivit import ViViT
from vivit_train.preflight.features import see, spread

SIZE = {
    "image_size": 16, "num_frames": 4, "tubelet_size": [2, 8, 8], "hidden_size": 8, "num_layers": 1,
    "num_heads": 2, "mlp_size": 8, "num_classes": 3,
}  # fmt: skip


@pytest.mark.parametrize(
    "arguments",
    [
        {"attention": "spatio_temporal"},
        {"attention": "spatio_temporal", "pooling": "mean"},
        {"attention": "factorised_encoder"},
        {"attention": "factorised_encoder", "temporal_layers": 0},
        {"attention": "factorised_self_attention", "pooling": "mean"},
        {"attention": "factorised_dot_product", "pooling": "mean"},
    ],
)
def test_every_model_shows_what_its_head_reads_and_the_course_of_time(arguments: dict) -> None:
    model = ViViT(**SIZE, **arguments).eval()
    clips = torch.randn(5, 3, 4, 16, 16)
    features = see(model, clips)
    assert features.shape == (5, 3 * 8)
    caught = []
    model.head.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    with torch.no_grad():
        model(clips)
    torch.testing.assert_close(features[:, :8], caught[0], atol=1e-5, rtol=0)


def test_rows_are_spread_over_the_classes() -> None:
    labels = np.array([0] * 50 + [1] * 3 + [2] * 10)
    rows = spread(labels, 12, seed=0)
    assert np.bincount(labels[rows]).tolist() == [5, 3, 4]
    assert labels[rows[:3]].tolist() == [0, 1, 2]
    assert sorted(spread(labels, 100, seed=0)) == list(range(63))
    assert spread(labels, 12, seed=0) == rows != spread(labels, 12, seed=1)
