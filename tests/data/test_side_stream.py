from contextlib import contextmanager
from typing import Any

import pytest
import torch

from vivit_train.data.side_stream import SideStream


def test_a_cpu_has_none() -> None:
    side = SideStream()
    with side.on(torch.device("cpu")):
        clips = torch.ones(2)
    side.hand_over((clips, None))


class Stream:
    """A CUDA stream that writes down what is asked of it."""

    def __init__(self, device: torch.device | None = None) -> None:
        self.device, self.waited_for = device, []

    def wait_stream(self, other: "Stream") -> None:
        self.waited_for.append(other)


def test_the_model_waits_for_it_and_memory_for_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = [Stream()]

    @contextmanager
    def entered(stream: Stream) -> Any:
        streams.append(stream)
        yield
        streams.pop()

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", entered)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: streams[-1])
    kept = []

    class Clips(torch.Tensor):
        def record_stream(self, stream: Any) -> None:
            kept.append(stream)

    (current,) = streams
    side = SideStream()
    used = []
    for _ in range(2):
        with side.on(torch.device("cuda", 0)):
            used.append(streams[-1])
            clips = torch.ones(2).as_subclass(Clips)
        side.hand_over((clips, None))
    assert used[0] is used[1] is not current
    assert current.waited_for == used
    assert kept == [current, current]


@pytest.mark.gpu
def test_results_are_whole_on_the_current_stream() -> None:
    side = SideStream()
    for value in range(20):
        with side.on(torch.device("cuda", 0)):
            host = torch.full((1 << 22,), float(value)).pin_memory()
            clips = host.to("cuda", non_blocking=True) + 1
        side.hand_over((clips,))
        assert (clips == value + 1).all()
