"""Work in many processes, each of which may hang or die without harm to the others."""

import time
from collections.abc import Callable, Generator, Iterable, Sequence
from itertools import islice
from multiprocessing.connection import wait
from typing import TypeVar

from vivit_train.video.guard import Failure, Guard

Argument = TypeVar("Argument")
Result = TypeVar("Result")


def guarded_map(
    function: Callable[[Argument], Result],
    arguments: Iterable[Argument],
    num_workers: int,
    timeout: float,
) -> Generator[tuple[Argument, Result | Failure], None, None]:
    """Calls a function with each argument, in `Guard`s. Closing the generator ends them.

    Args:
        function: As for `Guard`.
        arguments: One for each call.
        num_workers: Calls at a time.
        timeout: Seconds that a call may pass in silence.

    Yields:
        An argument with its result, or with the `Failure` of a call that hung or died, in the
        order in which the calls end.

    Raises:
        Exception: What the function raised; this ends all calls.
    """
    idle = [Guard(function, timeout) for _ in range(num_workers)]
    busy: dict[Guard[Argument, Result], Argument] = {}
    waiting = iter(arguments)
    try:
        while True:
            for argument in list(islice(waiting, len(idle))):
                guard = idle.pop()
                busy[guard] = argument
                guard.send(argument)
            if not busy:
                return
            for guard in _ready(list(busy)):
                result: Result | Failure
                try:
                    answered, result = guard.receive()
                except Failure as failure:
                    answered, result = True, failure
                if answered:
                    idle.append(guard)
                    yield busy.pop(guard), result
    finally:
        for guard in [*idle, *busy]:
            guard.close()


def _ready(guards: Sequence[Guard[Argument, Result]]) -> list[Guard[Argument, Result]]:
    """Waits for those that have said something, or must have by now."""
    first = min(guard.deadline for guard in guards)
    heard = wait(
        [guard.connection for guard in guards if guard.connection],
        max(0.0, first - time.monotonic()),
    )
    now = time.monotonic()
    return [guard for guard in guards if guard.connection in heard or guard.deadline <= now]
