"""How a command speaks and ends: three options, an exit code, one sentence where something went wrong, and what a signal does to it."""

from __future__ import annotations

import inspect
import itertools
import os
import shlex
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, get_type_hints

import typer
from typer.models import ArgumentInfo, OptionInfo

from catcli import __version__
from catcli.errors import CatcliError, Terminated, UsageError

if TYPE_CHECKING:
    from catcli.commands.talk import Talk

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only results, warnings and errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more on the way.")]
Strict = Annotated[bool, typer.Option("--strict", help="Take every warning for an error, before anything is written.")]
LogFormat = Annotated[str, typer.Option(help="text, or json: what is said on standard error as one JSON object a line.", metavar="FORMAT")]

ECHO = 1.0
"""Seconds in which a second signal is the echo of the first: a shell and what runs under it both pass Ctrl-C on."""


def command(body: Callable[..., object]) -> Callable[..., None]:
    """A function of options, and of the ``talk`` that `Quiet`, `Verbose` and `LogFormat` make, as a command that ends with an exit code.

    What a user can cause becomes one sentence; anything else is a bug and keeps its traceback.
    """
    signature = inspect.signature(body)
    hints = get_type_hints(body, localns={"Talk": object}, include_extras=True)  # it is not imported here: see `_talk`

    @wraps(body)
    def run(*, quiet: bool, verbose: bool, strict: bool, log_format: str, **options: object) -> None:
        again = _again(options)
        talk = _talk(quiet, verbose, strict, log_format)
        signals = Signals()
        try:
            if quiet and verbose:
                raise UsageError("-q and -v contradict one another; leave one out.")
            if log_format not in ("text", "json"):
                raise UsageError(f"--log-format {log_format}: choose text or json.")
            _check_names(options, hints)
            talk.record("started", command=body.__name__.replace("_", " "), line=shlex.join(sys.argv), catcli=__version__)
            body(**options, talk=talk)
            if sys.stdout is not None:  # closed by the caller (>&-)
                sys.stdout.flush()
            talk.record("ended", exit_code=0)
        except CatcliError as error:
            _stop(talk, str(error), error.exit_code)
        except (KeyboardInterrupt, Terminated) as stopped:
            said, code = ("interrupted", 130) if isinstance(stopped, KeyboardInterrupt) else ("stopped by SIGTERM", 143)
            _stop(talk, f"{said}; {again}", code)
        except BrokenPipeError:
            # The reader has gone (| head). Python would complain again when it flushes at exit: give it somewhere to flush to.
            _unread()
            raise typer.Exit(0) from None
        except OSError as error:
            # What the rooms below did not foresee is still the machine's doing: a name that is too long, a disk that fails.
            _stop(talk, f"{error.filename or 'standard output'}: {error.strerror or error}; mend that and run the same line again.", 1)
        except MemoryError:
            _stop(talk, f"memory ran out; free some, or give a smaller --batch-size, --batch-tokens or --per-category; {again}", 1)
        finally:
            signals.release()

    own = [parameter.replace(annotation=hints[name]) for name, parameter in signature.parameters.items() if name != "talk"]
    shown = own + _spoken()
    # What Typer makes options of.
    vars(run).update(__signature__=signature.replace(parameters=shown))
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    return run


MAY_BE_EMPTY = ("keep", "output")
"""Options of which nothing is an answer, and those that say more about it themselves."""


def _check_names(options: Mapping[str, object], hints: Mapping[str, Any]) -> None:
    """Stop at an empty name: an empty variable of a script, which would stand for the folder that one stands in."""
    for name, value in options.items():
        words = value if isinstance(value, list) else [value]
        if "" in words and name not in MAY_BE_EMPTY:
            (option,) = (one for one in hints[name].__metadata__ if isinstance(one, ArgumentInfo | OptionInfo))
            # In an annotation Typer has the first of the names in the place of the default.
            long = [word for word in (option.default, *(option.param_decls or ())) if isinstance(word, str) and word.startswith("--")]
            flag = f"--{name.replace('_', '-')}" if isinstance(option, OptionInfo) else str(option.metavar or name).strip(".[]")
            raise UsageError(f"{long[0] if long else flag}: the name is empty; write the name of something, or leave it out.")


def _unread() -> None:
    """Nobody reads standard output any more."""
    from catcli.commands.talk import unheard

    if sys.stdout is not None:  # closed by the caller (>&-)
        unheard(sys.stdout)


def _again(options: Mapping[str, object]) -> str:
    """What a run that is stopped leaves, and how to go on."""
    if options.get("output") == "-":
        return "what went out is not all. Run the same line again."
    inputs = options.get("catalog") or options.get("products") or ()
    kept = "resume" in options and not (isinstance(inputs, Sequence) and "-" in inputs)
    return "nothing was left half-written. Run the same line again" + (", with --resume to go on." if kept else ".")


def _spoken() -> list[inspect.Parameter]:
    """The options by which every command is told how to speak."""

    def options(quiet: Quiet = False, verbose: Verbose = False, strict: Strict = False, log_format: LogFormat = "text") -> None:
        pass

    return list(inspect.signature(options, eval_str=True).parameters.values())


def _talk(quiet: bool, verbose: bool, strict: bool, log_format: str) -> Talk:
    """Where a command speaks; imported here, since rich's parts take their time."""
    from catcli.commands.talk import Talk

    return Talk(quiet=quiet, verbose=verbose, strict=strict, json_log=log_format == "json")


def _stop(talk: Talk, sentence: str, code: int) -> NoReturn:
    talk.complain(sentence, code)
    raise typer.Exit(code) from None


def asked_for_json_log(arguments: Sequence[str]) -> bool:
    """Whether a command line asks for a log in JSON; looked at before it is read, since what is wrong with it goes into the log too."""
    pairs = itertools.pairwise([*arguments, ""])
    return any(one == "--log-format=json" or (one, other) == ("--log-format", "json") for one, other in pairs)


def wrong_usage(error: typer.TyperException) -> NoReturn:
    """What is wrong with a command line, as a line of the log."""
    _talk(quiet=False, verbose=False, strict=False, log_format="json").complain(error.format_message(), error.exit_code)
    sys.exit(error.exit_code)


def plain_tracebacks() -> None:
    """Have the traceback of a bug printed without control codes: what it tells may be of a stranger's file."""

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        from catcli.reporting.tables import printable

        if sys.stderr is not None:
            sys.stderr.write(printable("".join(traceback.format_exception(kind, error, trace))))

    sys.excepthook = show
    threading.excepthook = lambda raised: show(raised.exc_type, raised.exc_value or raised.exc_type(), raised.exc_traceback)


class Signals:
    """Ctrl-C and SIGTERM as `KeyboardInterrupt` and `Terminated`, each at most once: what cleans up is not interrupted by an echo.

    A second one, later than an echo is, ends the process at once. Where a signal is ignored, as by a job in the background, it stays so.
    """

    RAISED: tuple[tuple[signal.Signals, type[BaseException]], ...] = (
        (signal.SIGINT, KeyboardInterrupt),
        (signal.SIGTERM, Terminated),
    )

    def __init__(self) -> None:
        """Listen from now on."""
        self._first: float | None = None
        self._hook = sys.unraisablehook
        self._before = {number: signal.getsignal(number) for number, _ in self.RAISED}
        for number, _ in self.RAISED:
            if self._before[number] != signal.SIG_IGN:
                signal.signal(number, self._came)
        sys.unraisablehook = self._lost

    def release(self) -> None:
        """Listen no longer."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        sys.unraisablehook = self._hook

    def _came(self, number: int, _frame: FrameType | None) -> None:
        if self._first is None:
            self._first = time.monotonic()
            raise dict(self.RAISED)[signal.Signals(number)]
        if time.monotonic() - self._first > ECHO:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    def _lost(self, lost: sys.UnraisableHookArgs) -> None:
        """An exception that came while an object was being deleted goes no further: have the signal come again."""
        for number, raised in self.RAISED:
            if issubclass(lost.exc_type, raised):
                self._first = None
                threading.Timer(0.01, os.kill, (os.getpid(), number)).start()
                return
        self._hook(lost)
