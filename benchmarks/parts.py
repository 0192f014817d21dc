"""Choices within the model and the training step, each beside what it was chosen over.

    python benchmarks/parts.py                         # ViViT-B's sizes on a CPU, minutes
    python benchmarks/parts.py --device cuda --precision bf16 --batch 8 --repeats 50

Forward and backward of one part of ViViT-B at 32x224x224 with either way to compute it, in turns,
in one process; medians after warm-up rounds. Both ways give the same numbers, by how much they
differ is in the table. bf16 is autocast, but for the optimiser, whose weights are float32.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from measure import PRECISIONS, Arguments, head, in_turns, write_report
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from vivit_train.model.embedding import TubeletEmbedding
from vivit_train.model.layers import Attention

WIDTH, HEADS, LAYERS = 768, 12, 12


class Choice(NamedTuple):
    """Two ways to the same result; each takes no arguments and returns it."""

    name: str
    ours: Callable[[], Tensor]
    instead: Callable[[], Tensor]


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    args = parse(argv)
    torch.manual_seed(0)
    results = []
    for make in (tubelets, projections, layout, optimiser_step):
        choice = make(args)
        difference = (choice.ours() - choice.instead()).abs().max().item()
        ways = {"ours": choice.ours, "instead": choice.instead}
        seconds = in_turns(ways, args.repeats, args.device, choice.name)
        ours, instead = (statistics.median(seconds[way]) for way in ways)
        results.append(
            {
                "choice": choice.name,
                "seconds": seconds,
                "median_seconds": {"ours": ours, "instead": instead},
                "speed_ratio": instead / ours,
                "largest_difference": difference,
            }
        )
    settings = {name: getattr(args, name) for name in ("precision", "batch", "side", "repeats")}
    report = head(settings, args.device, "torch", "vivit-train") | {"results": results}
    print_report(report)
    write_report(report, args.output)
    return report


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Arguments(__doc__, "parts_{device}")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--batch", type=int, default=1, help="clips")
    parser.add_argument("--side", type=int, default=224, help="pixels of a frame")
    parser.add_argument("--repeats", type=int, default=5, help="rounds after the warm-up")
    return parser.parse(argv)


def tubelets(args: argparse.Namespace) -> Choice:
    """Clip to tokens: one matrix product on a view, or the convolution that it is."""
    embed = TubeletEmbedding(3, WIDTH, (2, 16, 16)).to(args.device)
    nn.init.normal_(embed.weight, std=0.02)
    nn.init.zeros_(embed.bias)
    clips = torch.randn(args.batch, 3, 32, args.side, args.side, device=args.device)

    def convolved() -> Tensor:
        x = F.conv3d(clips, embed.weight, embed.bias, stride=embed.tubelet_size)
        return x.flatten(2).transpose(1, 2)  # [B, D, t, h, w] -> [B, N, D]

    parameters = list(embed.parameters())
    return Choice(
        "tubelets: matrix product on a view | Conv3d",
        forward_backward(lambda: embed(clips), parameters, args),
        forward_backward(convolved, parameters, args),
    )


def projections(args: argparse.Namespace) -> Choice:
    """Queries, keys and values from one matrix product, or from three."""
    attention, x = attention_and_tokens(args)
    qkv = attention.qkv

    def three() -> Tensor:
        weights, biases = qkv.weight.chunk(3), qkv.bias.chunk(3)
        return torch.cat([F.linear(x, w, b) for w, b in zip(weights, biases)], dim=-1)

    parameters = list(qkv.parameters())
    return Choice(
        "attention: one projection | three",
        forward_backward(lambda: qkv(x), parameters, args),
        forward_backward(three, parameters, args),
    )


def layout(args: argparse.Namespace) -> Choice:
    """Heads as strided views of the projection, or copied side by side first."""
    attention, x = attention_and_tokens(args)
    qkv = attention.qkv(x).detach().requires_grad_()

    def heads() -> tuple[Tensor, ...]:
        return qkv.unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    def copied() -> Tensor:
        return F.scaled_dot_product_attention(*(part.contiguous() for part in heads()))

    return Choice(
        "attention: strided heads | contiguous heads",
        forward_backward(lambda: F.scaled_dot_product_attention(*heads()), [qkv], args),
        forward_backward(copied, [qkv], args),
    )


def optimiser_step(args: argparse.Namespace) -> Choice:
    """AdamW over the blocks' weights: one fused kernel, or torch's default for the device."""

    def step(**kernel: bool) -> Callable[[], Tensor]:
        torch.manual_seed(0)
        sizes = [(3 * WIDTH, WIDTH), (WIDTH, WIDTH), (4 * WIDTH, WIDTH), (WIDTH, 4 * WIDTH)]
        weights = [nn.Parameter(torch.randn(size, device=args.device)) for size in sizes * LAYERS]
        optimizer = torch.optim.AdamW(weights, lr=1e-3, **kernel)
        for weight in weights:
            weight.grad = torch.ones_like(weight)

        def run() -> Tensor:
            optimizer.step()
            return weights[0].detach()

        return run

    return Choice("AdamW: fused | torch's default", step(fused=True), step())


def attention_and_tokens(args: argparse.Namespace) -> tuple[Attention, Tensor]:
    """An attention layer, and the tokens of a batch ``[B, N, D]``."""
    attention = Attention(WIDTH, HEADS, True, 0.0, 0.0, "sdpa").to(args.device)
    tokens = 1 + 16 * (args.side // 16) ** 2
    return attention, torch.randn(args.batch, tokens, WIDTH, device=args.device)


def forward_backward(
    forward: Callable[[], Tensor], parameters: Sequence[Tensor], args: argparse.Namespace
) -> Callable[[], Tensor]:
    """Runs forward and backward, and returns what forward gave."""

    def run() -> Tensor:
        with torch.autocast(args.device, torch.bfloat16, enabled=args.precision == "bf16"):
            output = forward()
        torch.autograd.grad(output, parameters, torch.ones_like(output))
        return output.detach().float()

    return run


def print_report(report: dict[str, Any]) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("ours | instead", "ours ms", "instead ms", "speed", "difference"):
        table.add_column(column, justify="left" if "|" in column else "right")
    for line in report["results"]:
        medians = line["median_seconds"]
        table.add_row(
            line["choice"],
            f"{1e3 * medians['ours']:.1f}",
            f"{1e3 * medians['instead']:.1f}",
            f"{line['speed_ratio']:.2f}x",
            f"{line['largest_difference']:.1e}",
        )
    hardware = report["hardware"]
    console = Console(markup=False, highlight=False, width=110)
    console.print(f"{hardware.get('gpu', hardware['cpu'])}, {report['settings']['precision']}")
    console.print(table)


if __name__ == "__main__":
    main()
