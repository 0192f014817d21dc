"""Which kernel computes attention: forced, and known."""

from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch.nn.attention import SDPBackend
from torch.profiler import profile

from vivit_train.errors import UserError
from vivit_train.model import kernels
from vivit_train.model.kernels import force_kernel, settle_kernel
from vivit_train.model.vivit import ViViT

TINY = {
    "num_classes": 3,
    "image_size": 16,
    "num_frames": 4,
    "tubelet_size": [2, 8, 8],
    "hidden_size": 16,
    "num_layers": 2,
    "num_heads": 2,
    "mlp_size": 32,
}
CLIPS = (3, 3, 4, 16, 16)
# torch's operator of each kernel on a CPU.
FLASH, MATH = "aten::_scaled_dot_product_flash_attention_for_cpu", "aten::_softmax"


def tiny(**arguments: Any) -> ViViT:
    torch.manual_seed(0)
    model = ViViT(**TINY | arguments)
    torch.nn.init.normal_(model.head.weight)
    return model


def operators(model: ViViT, clips: Tensor) -> set[str]:
    """What a training step runs, forward and backward."""
    with profile() as seen:
        model(clips).sum().backward()
    return {event.key for event in seen.key_averages()}


@pytest.mark.parametrize("recomputes", [False, True])
def test_a_forced_kernel_computes_all_attention_and_the_same(recomputes: bool) -> None:
    clips = torch.randn(CLIPS)
    gradients = []
    for kernel, used, other in (("flash", FLASH, MATH), ("math", MATH, FLASH)):
        model = tiny()
        model.encoder.activation_checkpointing = recomputes
        force_kernel(model, kernel)
        seen = operators(model, clips)
        assert used in seen
        assert other not in seen
        assert settle_kernel(model, clips, torch.float32, kernel) == kernel
        gradients.append([p.grad for p in model.parameters()])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_compiled_layer_has_its_kernel_in_its_graph() -> None:
    """So the compile cache on disk cannot mistake one kernel's graph for another's."""
    graphs: list[set[str]] = []

    def note(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append({str(n.target) for n in graph.graph.nodes if n.op == "call_function"})
        return make_boxed_func(graph.forward)

    for kernel in ("flash", "math"):
        torch._dynamo.reset()
        model = tiny()
        force_kernel(model, kernel)
        graphs.clear()
        backend = aot_autograd(fw_compiler=note, bw_compiler=note)
        layer = torch.compile(model.encoder.blocks[0].attn, backend=backend, fullgraph=True)
        layer(torch.randn(2, 9, 16)).sum().backward()
        assert len(graphs) == 2  # forward, backward
        for graph in graphs:
            assert any("flash_attention_for_cpu" in name for name in graph) == (kernel == "flash")


def test_auto_leaves_the_choice_to_torch() -> None:
    model = tiny()
    before = [layer.kernel for layer in kernels._layers(model)]
    force_kernel(model, "auto")
    assert settle_kernel(model, torch.randn(CLIPS), torch.float32, "auto") == "flash"
    assert [layer.kernel for layer in kernels._layers(model)] == before


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, ["9 queries x 9 keys in 2 heads of 8", "1 queries x 9 keys in 2 heads of 8"]),
        ({"pooling": "mean", "token_drop": 0.5}, ["4 queries x 4 keys in 2 heads of 8"]),
        (
            {"pooling": "mean", "attention": "factorised_self_attention"},
            ["2 queries x 2 keys in 2 heads of 8", "4 queries x 4 keys in 2 heads of 8"],
        ),
    ],
)
def test_the_runs_own_shapes_are_asked_for(arguments: dict[str, Any], expected: list[str]) -> None:
    state = torch.get_rng_state()
    model = tiny(**arguments)
    torch.set_rng_state(state)
    found = kernels._calls(model, torch.empty(CLIPS))
    assert [str(call) for call in found] == expected
    assert torch.equal(torch.get_rng_state(), state)  # it draws nothing of the run's


def test_a_kernel_that_cannot_is_refused_with_torchs_reason() -> None:
    model = tiny()
    force_kernel(model, "cudnn")
    with pytest.raises(UserError) as caught:
        settle_kernel(model, torch.randn(CLIPS), torch.bfloat16, "cudnn")
    told = str(caught.value)
    assert "model.attention_kernel=cudnn cannot compute attention of 9 queries x 9 keys" in told
    assert "in bfloat16 on this device (cpu): No viable backend" in told
    assert told.endswith("Set model.attention_kernel=auto")


def test_the_formula_uses_no_kernel() -> None:
    model = tiny(attention_implementation="eager")
    assert settle_kernel(model, torch.randn(CLIPS), torch.float32, "auto") == "eager"
    force_kernel(model, "auto")
    with pytest.raises(UserError, match=r"attention_kernel=math: .*eager computes the formula"):
        force_kernel(model, "math")


class TestPackages:
    """FlashAttention-3 and 4, which torch can put behind its operator."""

    @pytest.mark.parametrize("kernel", ["fa3", "fa4"])
    def test_missing(self, kernel: str) -> None:
        needed = rf"attention_kernel={kernel}: torch cannot use FlashAttention-{kernel[-1]}.*"
        with pytest.raises(
            UserError, match=needed + f"Install the package flash-attn-{kernel[-1]}"
        ):
            force_kernel(tiny(), kernel)

    def test_a_torch_without_them(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(torch.nn.attention, "activate_flash_attention_impl")
        with pytest.raises(UserError, match=r"attention_kernel=fa4 needs torch 2\.11 or newer"):
            force_kernel(tiny(), "fa4")

    def test_activated(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[str] = []
        monkeypatch.setattr(torch.nn.attention, "activate_flash_attention_impl", asked.append)
        model = tiny()
        force_kernel(model, "fa4")
        assert asked == ["FA4"]
        assert FLASH in operators(model, torch.randn(CLIPS))
        assert settle_kernel(model, torch.randn(CLIPS), torch.float32, "fa4") == "fa4"


class TestHopper:
    """torch's choice is changed only where it is FlashAttention-2 and cuDNN can do the work."""

    @pytest.fixture
    def ask(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        def asked(first: str, cudnn_can: bool, capability: int = 9) -> tuple[str, list[Any]]:
            def choice(call: Any, device: Any, dtype: Any, forced: Any) -> tuple[str | None, str]:
                if forced is None:
                    return first, ""
                assert forced is SDPBackend.CUDNN_ATTENTION
                return ("cudnn" if cudnn_can else None), "why"

            monkeypatch.setattr(kernels, "_choice", choice)
            monkeypatch.setattr(kernels, "_is_hopper_or_blackwell", lambda _: capability in (9, 10))
            model = tiny()
            found = settle_kernel(model, torch.empty(CLIPS), torch.bfloat16, "auto")
            return found, [getattr(x.kernel, "args", None) for x in kernels._layers(model)]

        return asked

    @pytest.mark.parametrize("case", [("cudnn", True, 9), ("flash", False, 9), ("flash", True, 8)])
    def test_left_to_torch(self, ask: Any, case: tuple[str, bool, int]) -> None:
        found, orders = ask(*case)
        assert found == case[0]
        assert orders == [None, None]

    def test_cudnn_goes_first(self, ask: Any) -> None:
        found, orders = ask("flash", True, 10)
        assert found == "cudnn"
        assert [backends[0] for backends, _ in orders] == [SDPBackend.CUDNN_ATTENTION] * 2
        assert all(in_order for _, in_order in orders)


@pytest.mark.gpu
@pytest.mark.parametrize("kernel", ["cudnn", "flash", "efficient", "math"])
def test_on_a_gpu(kernel: str) -> None:
    operator = {
        "cudnn": "aten::_scaled_dot_product_cudnn_attention",
        "flash": "aten::_scaled_dot_product_flash_attention",
        "efficient": "aten::_scaled_dot_product_efficient_attention",
        "math": "aten::_softmax",
    }[kernel]
    model, clips = tiny(num_heads=1).cuda().bfloat16(), torch.randn(CLIPS).cuda().bfloat16()
    force_kernel(model, kernel)
    assert settle_kernel(model, clips, torch.bfloat16, kernel) == kernel
    assert operator in operators(model, clips)
