"""Open a page on this machine: drop a video on it, and see its classes, when, and where it looked.

  vivit demo RUN
  vivit demo RUN/checkpoints/best.ckpt --port 8000

Needs Gradio: pip install 'vivit-train[demo]'. Only this machine reaches the page.
"""

import argparse
import html
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vivit_train.commands import CHECKPOINT
from vivit_train.commands.explain import look_at
from vivit_train.commands.predict import load_on_device
from vivit_train.errors import UserError
from vivit_train.io.terminal import printable, say

if TYPE_CHECKING:
    import numpy as np

    from vivit_train.classifier import Classifier

ADDRESS = "127.0.0.1"
COLUMNS = ("from", "to", "class", "probability")
WINDOW_SECONDS = 2.0  # of a model that does not say what a clip covers
TOP_K = 5


class Answer(NamedTuple):
    """What the page shows of a video.

    Attributes:
        classes: Name -> probability, the best first.
        timeline: Rows of `COLUMNS`, as text.
        heat: Frames, and below them the same with heat: uint8 ``[H, W, 3]``.
    """

    classes: dict[str, float]
    timeline: list[list[str]]
    heat: "np.ndarray"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's arguments."""
    parser.add_argument("checkpoint", help=CHECKPOINT)
    parser.add_argument("--device", help="cpu, cuda, ... (default: a GPU if there is one)")
    parser.add_argument("--port", type=int, help="of the page (default: a free one from 7860 on)")


def run(arguments: argparse.Namespace) -> int:
    """Serves the page until it is interrupted."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # it asks the network when it is imported
    try:
        import gradio  # noqa: F401
    except ModuleNotFoundError:
        raise UserError("vivit demo needs Gradio: pip install 'vivit-train[demo]'") from None
    page = page_of(load_on_device(arguments.checkpoint, arguments.device), arguments.checkpoint)
    say(f"{serve(page, arguments.port)} (Ctrl-C ends it)")
    page.block_thread()
    return 0


def answer(classifier: "Classifier", video: str) -> Answer:
    """What the page shows of a video.

    Raises:
        DecodeError: If it cannot be decoded.
        NonFiniteLogits: If the logits say nothing.
    """
    import numpy as np

    from vivit_train.explain.heat import overlay, strip
    from vivit_train.prediction import THRESHOLD
    from vivit_train.timeline.decoded import decoded
    from vivit_train.timeline.files import clock
    from vivit_train.timeline.rows import rows_of
    from vivit_train.timeline.still import LEAST_SECONDS
    from vivit_train.transforms.shrink import for_evaluation

    prediction: Any = classifier.predict(video, TOP_K)
    window = classifier.sampling.seconds(classifier.video_rate) or WINDOW_SECONDS
    clip_frames = classifier.model.arguments.num_frames
    shrink = for_evaluation(classifier.processor)
    with decoded(video, window, window / 2, clip_frames, shrink, LEAST_SECONDS) as film:
        least = THRESHOLD if classifier.multi_label else 0.0
        rows = list(rows_of(classifier, film, video, least))
    looked = look_at(classifier, Path(video))
    laid = overlay(looked.frames, looked.heat, looked.even)
    told = [f"{looked.probability:.4f}  {looked.name} (the middle clip)"]
    return Answer(
        {printable(name): probability for name, probability in prediction.classes},
        [
            [clock(row.start), clock(row.end), printable(row.name), f"{row.probability:.4f}"]
            for row in rows
        ],
        np.asarray(strip(looked.frames, laid, told)),
    )


def page_of(classifier: "Classifier", name: str) -> Any:
    """The page, as Gradio's blocks.

    Args:
        classifier: In evaluation mode.
        name: Of the checkpoint.
    """
    import gradio

    from vivit_train.classifier import NonFiniteLogits
    from vivit_train.video.decode import DecodeError

    def show(video: str | None) -> tuple[Any, Any, Any]:
        if video is None:
            return None, None, None
        try:
            return answer(classifier, video)
        except (DecodeError, NonFiniteLogits, UserError) as error:
            reason = getattr(error, "reason", str(error))
            # Gradio shows a message as HTML.
            raise gradio.Error(html.escape(printable(reason))) from error

    with gradio.Blocks(title="vivit demo", analytics_enabled=False) as page:
        gradio.HTML(f"<h1>{html.escape(printable(name))}</h1>")
        with gradio.Row():
            video = gradio.Video(label="Video", sources=["upload"])
            classes = gradio.Label(label="Classes")
        timeline = gradio.Dataframe(
            headers=list(COLUMNS),
            label="Timeline (without pictures that stand still)",
            datatype="str",
        )
        heat = gradio.Image(label="Where the model looked: attention rollout", format="png")
        video.change(show, video, [classes, timeline, heat], api_visibility="private")
    return page


def serve(page: Any, port: int | None) -> str:
    """Starts to serve a page, to this machine alone; returns its address.

    Raises:
        UserError: If the port is taken.
    """
    import gradio

    # The fonts of this machine: others would be fetched.
    theme = gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    try:
        _, address, _ = page.launch(
            server_name=ADDRESS, server_port=port, share=False, prevent_thread_lock=True,
            quiet=True, ssr_mode=False, theme=theme, footer_links=[],
        )  # fmt: skip
    except OSError as error:
        raise UserError(f"--port {port}: {error}") from None
    return str(address)
