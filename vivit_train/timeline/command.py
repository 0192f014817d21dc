"""What `vivit predict` does with `--window`; torch is imported only when it works."""

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import islice
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vivit_train.errors import UserError
from vivit_train.io.files import user_path
from vivit_train.io.progress import progress
from vivit_train.io.terminal import say, say_json

if TYPE_CHECKING:
    from vivit_train.classifier import Classifier
    from vivit_train.timeline.decoded import Film
    from vivit_train.timeline.rows import Row
    from vivit_train.timeline.still import Still
    from vivit_train.transforms.shrink import Shrink

FILMS = (".mp4", ".mkv", ".mov")
# A file is named as a whole with a hint if it lasts longer than this, and than so many clips.
LONG_SECONDS, LONG_CLIPS = 30.0, 20
MOST_LOOKED_AT = 16  # files
# Options that mean something only with --window, or only without.
WITH_WINDOW = ("every", "timeline", "video", "smooth", "still", "camera", "size", "rate")
WITHOUT_WINDOW = ("top_k", "views", "csv")
STANDARD_INPUT = "-"


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
        "--threshold", type=float, metavar="P", help="least probability (0; multi-label 0.5)"
    )
    options.add_argument(
        "--smooth", type=int, metavar="N", help="average probabilities over N windows (default 1)"
    )
    options.add_argument(
        "--still",
        metavar="TIME",
        help="a picture that stands still for so long has no class (default 500ms; 0: it has one)",
    )
    options.add_argument(
        "--camera", type=int, metavar="N", help="a line for each window of what camera N sees"
    )
    options.add_argument(
        "--rate", type=float, metavar="FPS", help="frames per second of standard input (VIDEO -)"
    )
    options.add_argument(
        "--size",
        metavar="WxH",
        help="pixels of its frames if they are raw rgb24",
    )


class Options(NamedTuple):
    """A timeline as it is asked for: see `add_arguments`."""

    film: str
    window: float
    every: float
    timeline: Path | None
    video: Path | None
    threshold: float | None
    smooth: int
    still: float
    is_json: bool
    camera: int | None
    rate: float | None
    size: tuple[int, int] | None

    def least(self, classifier: "Classifier") -> float:
        """The probability of a row, at least."""
        from vivit_train.prediction import THRESHOLD

        usual = THRESHOLD if classifier.multi_label else 0.0
        return usual if self.threshold is None else self.threshold

    @property
    def is_live(self) -> bool:
        """Whether frames come while they are watched."""
        return self.camera is not None or self.film == STANDARD_INPUT


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
        if STANDARD_INPUT in arguments.videos:
            raise UserError("standard input (-) gets a timeline: give --window, e.g. --window 2s")
        return None
    from vivit_train.timeline.still import LEAST_SECONDS
    from vivit_train.timeline.windows import parse_seconds

    window = parse_seconds("--window", arguments.window)
    every = parse_seconds("--every", arguments.every) if arguments.every is not None else window
    threshold = threshold_of(arguments)
    smooth = 1 if arguments.smooth is None else arguments.smooth
    still = LEAST_SECONDS
    if arguments.still is not None:
        still = parse_seconds("--still", arguments.still, is_zero_some=True)
    if smooth < 1:
        raise UserError(f"--smooth must be 1 or more, got {smooth}")
    source = _source_of(arguments)
    film = user_path(source)
    if source != STANDARD_INPUT and film.is_dir():
        raise UserError("--window takes one video file, not several or a folder")
    _check_places(film, arguments.timeline, arguments.video)
    return Options(
        source if source == STANDARD_INPUT else str(film),
        window,
        every,
        arguments.timeline,
        arguments.video,
        threshold,
        smooth,
        still,
        arguments.json,
        arguments.camera,
        arguments.rate,
        _size_of(arguments.size),
    )


def threshold_of(arguments: argparse.Namespace) -> float | None:
    """The threshold, checked; ``None`` where it is left open."""
    threshold: float | None = arguments.threshold
    if threshold is not None and not 0 <= threshold <= 1:
        raise UserError(f"--threshold must be from 0 to 1, got {threshold:g}")
    return threshold


def _source_of(arguments: argparse.Namespace) -> str:
    """The film, ``-``, or the camera's name; options of the others are refused."""
    if arguments.videos and arguments.camera is not None:
        raise UserError("--camera is in place of a video: leave out one of them")
    if len(arguments.videos) > 1:
        raise UserError("--window takes one video file, not several or a folder")
    if not arguments.videos and arguments.camera is None:
        raise UserError("--window needs a video file, - for standard input, or --camera N")
    source = str(arguments.videos[0]) if arguments.videos else f"camera {arguments.camera}"
    is_stream = source == STANDARD_INPUT
    if not is_stream and (arguments.rate is not None or arguments.size is not None):
        raise UserError("--rate and --size are for standard input: give - in place of a video")
    for name in ("video", "smooth") if is_stream or arguments.camera is not None else ():
        if getattr(arguments, name) is not None:
            raise UserError(f"--{name} is for a film: leave it out for a camera or standard input")
    if arguments.camera is not None and arguments.camera < 0:
        raise UserError(f"--camera must be 0 or more, got {arguments.camera}")
    if is_stream and (arguments.rate is None or not 0 < arguments.rate < inf):
        raise UserError(
            "standard input needs --rate, its frames per second, above 0, e.g. --rate 25"
            + ("" if arguments.rate is None else f"; got {arguments.rate:g}")
        )
    return source


def _size_of(text: str | None) -> tuple[int, int] | None:
    """Height and width of ``320x240``."""
    if text is None:
        return None
    found = re.fullmatch(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", text)
    if found is None:
        raise UserError(f"--size {text}: expected WIDTHxHEIGHT, e.g. 320x240")
    return int(found[2]), int(found[1])


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
    from vivit_train.video.decode import DecodeError

    if options.video is not None and classifier.multi_label:
        raise UserError(
            "--video draws one class at a time, and this model names any number: leave it out; "
            "--timeline writes the rows of all classes, as subtitles too (.srt)"
        )
    warn_of_window(classifier, options.window)
    rows: list[Row] = []  # only those of a film, for the labels: a camera may go on for days
    number, until = 0, 0.0
    still: Still | None = None
    try:
        with _opened(classifier, options) as (found, num_frames, still), _output(options) as write:
            for row in found:
                write(row)
                number, until = number + 1, max(until, row.end)
                if options.video is not None:
                    rows.append(row)
        if options.video is not None:
            with progress(num_frames) as advance:
                label_film(options.film, options.video, rows, advance)
    except DecodeError as error:
        say(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        if options.timeline is not None and number:
            say(
                f"{number} rows, until {until:.2f} s: {options.timeline}",
                file=sys.stderr if options.is_json else None,
            )
        if still is not None and still.seconds:
            say(
                f"the picture stands still for {still.seconds:.2f} s, which have no class "
                "(--still 0 gives them one)",
                file=sys.stderr,
            )
    if options.video is not None:
        say(f"film: {options.video}", file=sys.stderr if options.is_json else None)
    return 0


@contextmanager
def _opened(
    classifier: "Classifier", options: Options
) -> Iterator[tuple[Iterator["Row"], int, "Still"]]:
    """The rows, each when it is known; how many frames there are, 0 if nobody knows; the still."""
    from vivit_train.timeline.decoded import decoded
    from vivit_train.timeline.still import Still
    from vivit_train.transforms.shrink import for_evaluation

    clip_frames = classifier.model.arguments.num_frames
    # A frame is in several windows, and goes from process to process: the smaller the better.
    shrink = for_evaluation(classifier.processor, large=1)
    if options.is_live:
        still = Still(options.still)
        yield _live_rows(classifier, options, clip_frames, shrink, still), 0, still
        return
    times = (options.window, options.every)
    with decoded(options.film, *times, clip_frames, shrink, options.still) as film:
        yield _rows(classifier, film, options), film.num_frames, film.still


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


def _rows(classifier: "Classifier", film: "Film", options: Options) -> Iterator["Row"]:
    """The rows of a film, each when it has ended; the last also where the work is stopped."""
    from vivit_train.timeline.rows import rows_of

    is_text = options.timeline is None and not options.is_json  # shows by itself how far it is
    with nullcontext(lambda _: None) if is_text else progress(len(film.windows)) as advance:
        yield from rows_of(
            classifier, film, options.film, options.least(classifier), options.smooth, advance
        )


def _live_rows(
    classifier: "Classifier", options: Options, clip_frames: int, shrink: "Shrink", still: "Still"
) -> Iterator["Row"]:
    """A row for each window in which the picture moves, as soon as it is over."""
    from vivit_train.timeline import live
    from vivit_train.timeline.rows import Row, guesses_of, probabilities
    from vivit_train.timeline.windows import Windows

    if options.camera is not None:
        frames = live.camera_frames(options.camera)
    elif options.size is not None:
        frames = live.raw_frames(sys.stdin.buffer, options.size, options.rate or 0.0)
    else:
        frames = live.picture_frames(sys.stdin.buffer, options.rate or 0.0)
    windows = Windows(inf, options.window, options.every)
    drops = options.camera is not None
    is_empty = True
    frames = live.watched(frames, still)
    for number, clip in live.live_clips(frames, windows, clip_frames, shrink, drops):
        is_empty = False
        start = windows.start(number)
        still.forget(start)
        if still.covers(start, start + windows.seconds):
            continue
        (probability,) = probabilities(classifier, iter([clip]), options.film)
        assert probability is not None
        for name, share in guesses_of(probability, classifier):
            for first, last, is_still in still.parts(*windows.span(number)):
                if not is_still and share >= options.least(classifier):
                    yield Row(first, last, name, share)
    if is_empty:
        raise UserError(f"the frames ended before a window of {options.window:g} s was over")


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
