"""What `vivit predict` does with `--window`; torch is imported only when it works."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vivit_train.errors import UserError
from vivit_train.io.files import user_path
from vivit_train.io.progress import progress
from vivit_train.io.terminal import say, say_json

if TYPE_CHECKING:
    from vivit_train.classifier import Classifier
    from vivit_train.timeline.rows import Row
    from vivit_train.video.decode import VideoReader

FILMS = (".mp4", ".mkv", ".mov")
# A file is named as a whole with a hint if it lasts longer than this, and than so many clips.
LONG_SECONDS, LONG_CLIPS = 30.0, 20
MOST_LOOKED_AT = 16  # files
# Options that mean something only with --window, or only without.
WITH_WINDOW = ("every", "timeline", "video", "threshold", "smooth")
WITHOUT_WINDOW = ("top_k", "views", "csv")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of a timeline."""
    options = parser.add_argument_group("timeline of one long video")
    options.add_argument(
        "--window", metavar="TIME", help="name what each window of this length shows, e.g. 2s"
    )
    options.add_argument(
        "--every", metavar="TIME", help="from one window to the next (default: a window's length)"
    )
    options.add_argument(
        "--timeline", type=user_path, metavar="FILE", help="write rows to a .csv, .json or .srt"
    )
    options.add_argument(
        "--video",
        type=user_path,
        metavar="FILE",
        help="write the film with the rows drawn on it (.mp4, .mkv or .mov)",
    )
    options.add_argument(
        "--threshold", type=float, metavar="P", help="leave out less probable rows (default 0)"
    )
    options.add_argument(
        "--smooth", type=int, metavar="N", help="average probabilities over N windows (default 1)"
    )


class Options(NamedTuple):
    """A timeline as it is asked for: see `add_arguments`."""

    film: str
    window: float
    every: float
    timeline: Path | None
    video: Path | None
    threshold: float
    smooth: int
    is_json: bool


def options_of(arguments: argparse.Namespace) -> Options | None:
    """The options of a timeline, checked; ``None`` where none is asked for.

    Raises:
        UserError: If they contradict each other, or a value or a place is none.
    """
    is_timeline = arguments.window is not None
    for name in WITHOUT_WINDOW if is_timeline else WITH_WINDOW:
        if getattr(arguments, name) is not None:
            option = f"--{name.replace('_', '-')}"
            raise UserError(
                f"{option} is not for a timeline: leave out {option} or --window"
                if is_timeline
                else f"{option} is for a timeline: give --window as well, e.g. --window 2s"
            )
    if not is_timeline:
        return None
    from vivit_train.timeline.windows import parse_seconds

    window = parse_seconds("--window", arguments.window)
    every = parse_seconds("--every", arguments.every) if arguments.every is not None else window
    threshold = 0.0 if arguments.threshold is None else arguments.threshold
    smooth = 1 if arguments.smooth is None else arguments.smooth
    if not 0 <= threshold <= 1:
        raise UserError(f"--threshold must be from 0 to 1, got {threshold:g}")
    if smooth < 1:
        raise UserError(f"--smooth must be 1 or more, got {smooth}")
    film = user_path(arguments.videos[0])
    if len(arguments.videos) > 1 or film.is_dir():
        raise UserError("--window takes one video file, not several or a folder")
    _check_places(film, arguments.timeline, arguments.video)
    places = (arguments.timeline, arguments.video)
    return Options(str(film), window, every, *places, threshold, smooth, arguments.json)


def _check_places(film: Path, timeline: Path | None, video: Path | None) -> None:
    """Refuses places that cannot be written to, before the work is done."""
    from vivit_train.timeline.files import SUFFIXES

    for option, place, suffixes in (("--timeline", timeline, SUFFIXES), ("--video", video, FILMS)):
        if place is None:
            continue
        if place.suffix.lower() not in suffixes or place.is_dir():
            raise UserError(
                f"{option} {place}: expected a file whose name ends in {' or '.join(suffixes)}"
            )
        if not place.parent.is_dir():
            raise UserError(f"{option} {place}: there is no folder {place.parent}")
        if place.exists() and film.exists() and place.samefile(film):
            raise UserError(f"{option} {place} is the film itself: give another name")


def run(classifier: "Classifier", options: Options) -> int:
    """Writes or prints the timeline of a film; the exit code is 1 if the film cannot be decoded.

    The rows until then are written, and so are those before an interruption.
    """
    from vivit_train.timeline.film import label_film
    from vivit_train.video.decode import DecodeError, VideoReader

    warn_of_window(classifier, options.window)
    rows: list[Row] = []
    try:
        with VideoReader(options.film) as video, _output(options) as write:
            for row in _rows(classifier, video, options):
                rows.append(row)
                write(row)
            num_frames = video.num_frames
        if options.video is not None:
            with progress(num_frames) as advance:
                label_film(options.film, options.video, rows, advance)
    except DecodeError as error:
        say(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        if options.timeline is not None and rows:
            until = f"{rows[-1].end:.2f} s"
            say(
                f"{len(rows)} rows, until {until}: {options.timeline}",
                file=sys.stderr if options.is_json else None,
            )
    if options.video is not None:
        say(f"film: {options.video}", file=sys.stderr if options.is_json else None)
    return 0


@contextmanager
def _output(options: Options) -> Iterator[Callable[["Row"], None]]:
    """Where rows go: the file, standard output as JSON at the end, or as text."""
    from vivit_train.timeline.files import as_dict, in_words, written

    rows: list[dict[str, Any]] = []
    file = written(options.timeline) if options.timeline is not None else nullcontext(None)
    try:
        with file as to_file:

            def write(row: "Row") -> None:
                if options.is_json:
                    rows.append(as_dict(row))
                if to_file is not None:
                    to_file(row)
                elif not options.is_json:
                    say(in_words(row))

            yield write
    finally:
        if options.is_json:
            say_json(rows)


def _rows(classifier: "Classifier", video: "VideoReader", options: Options) -> Iterator["Row"]:
    """The rows of a film, each when it has ended; the last also where the work is stopped."""
    from vivit_train.timeline.rows import Joiner, guess_of, probabilities, smoothed
    from vivit_train.timeline.windows import Windows, clips
    from vivit_train.transforms.shrink import for_evaluation

    windows = Windows(float(video.shown_at[-1]), options.window, options.every)
    clip_frames = classifier.model.arguments.num_frames
    frames = clips(video, windows, clip_frames, for_evaluation(classifier.processor))
    found = smoothed(probabilities(classifier, frames, options.film), options.smooth)
    joiner = Joiner(options.threshold)
    is_text = options.timeline is None and not options.is_json  # shows by itself how far it is
    with nullcontext(lambda _: None) if is_text else progress(len(windows)) as advance:
        try:
            for number, probability in enumerate(found):
                guess = guess_of(probability, classifier.class_names, classifier.heads)
                row = joiner.add(windows.span(number), guess)
                advance("windows")
                if row is not None:
                    yield row
        except (Exception, KeyboardInterrupt):  # not GeneratorExit, after which nothing is taken
            if (row := joiner.end()) is not None:
                yield row
            raise
    if (row := joiner.end()) is not None:
        yield row


def warn_of_window(classifier: "Classifier", window: float) -> None:
    """Says so where motion in a window looks faster or slower than it did in training."""
    from vivit_train.data.rates import is_other_rate

    if not classifier.tells_sampling:
        return
    usual = classifier.sampling.seconds(classifier.video_rate)
    if usual and is_other_rate(window, usual):
        say(
            f"warning: a clip of the training covered {usual:.3g} s, a window covers {window:.3g} "
            f"s: motion looks {'faster' if window > usual else 'slower'} than in training; "
            f"--window {usual:.3g}s shows it as it was",
            file=sys.stderr,
        )


def hint_at_timelines(classifier: "Classifier", videos: Sequence[Any]) -> None:
    """Says of the first file that is much longer than a clip that it could have a timeline."""
    clip = classifier.sampling.seconds(classifier.video_rate) or 0.0
    least = max(LONG_SECONDS, LONG_CLIPS * clip)
    lasting = ((video, _seconds_of(video)) for video in islice(videos, MOST_LOOKED_AT))
    if long := next((found for found in lasting if found[1] > least), None):
        say(
            f"hint: {long[0]} lasts {long[1]:.0f} s and is named as a whole; `--window 2s` gives "
            "a timeline of what it shows when",
            file=sys.stderr,
        )


def _seconds_of(path: str) -> float:
    """How long a file lasts by its head; 0 where it does not tell, or cannot be opened."""
    from vivit_train.video.container import open_video
    from vivit_train.video.decode import why_no_file

    if why_no_file(path):
        return 0.0
    try:
        container, _ = open_video(path)
        with container:
            return (container.duration or 0) / 1e6
    except UserError:
        raise
    except Exception:  # the prediction says what is wrong with it
        return 0.0
