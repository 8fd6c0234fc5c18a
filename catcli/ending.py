"""How a command speaks and ends: three options, an exit code, one sentence where something went wrong, and what a signal does to it."""

from __future__ import annotations

import inspect
import itertools
import os
import re
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
    from catcli.talk import Talk

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
        except BaseException as error:  # noqa: BLE001  # each ends in its way, and a bug with its traceback
            _end(error, talk, again)
        finally:
            signals.release()

    own = [parameter.replace(annotation=hints[name]) for name, parameter in signature.parameters.items() if name != "talk"]
    shown = own + _spoken()
    # What Typer makes options of.
    vars(run).update(__signature__=signature.replace(parameters=shown))
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    return run


def _end(error: BaseException, talk: Talk, again: str) -> NoReturn:
    """End a command by what was raised in it: with a sentence and an exit code, or where it is a bug as it is."""
    match error:
        case CatcliError():
            _stop(talk, str(error), error.exit_code)
        case KeyboardInterrupt():
            _stop(talk, f"interrupted; {again}", 130)
        case Terminated():
            _stop(talk, f"stopped by {error.signal.name}; {again}", 128 + error.signal)
        case BrokenPipeError():
            # The reader has gone (| head). Python would complain again when it flushes at exit: give it somewhere to flush to.
            _unread()
            raise typer.Exit(0) from None
        case OSError():
            # What the rooms below did not foresee is still the machine's doing: a name that is too long, a disk that fails.
            _stop(talk, f"{error.filename or 'standard output'}: {error.strerror or error}; mend that and run the same line again.", 1)
        case _ if _is_memory_short(error):
            _stop(talk, f"memory ran out; free some, or give a smaller --batch-size, --batch-tokens or --per-category; {again}", 1)
    raise error


def _is_memory_short(error: BaseException) -> bool:
    """Whether an error is that of too little memory: of Python, of a library that cannot be mapped, or of a thread that has no stack."""
    words = {ImportError: ("failed to map segment", "annot allocate memory"), RuntimeError: ("can't start new thread",)}
    found = (word for kind, several in words.items() if isinstance(error, kind) for word in several)
    return isinstance(error, MemoryError) or any(word in str(error) for word in found)


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
    from catcli.talk import unheard

    if sys.stdout is not None:  # closed by the caller (>&-)
        unheard(sys.stdout)


def _again(options: Mapping[str, object]) -> str:
    """What a run that is stopped leaves, and how to go on."""
    if options.get("output") == "-":
        return "what went out is not all. Run the same line again."
    inputs = options.get("catalog") or options.get("products") or ()
    kept = "resume" in options and not (isinstance(inputs, Sequence) and "-" in inputs)
    way = "" if not kept else ", with --resume to go on" if "trials" in options else "; it goes on from what was finished"
    return f"nothing was left half-written. Run the same line again{way}."


def _spoken() -> list[inspect.Parameter]:
    """The options by which every command is told how to speak."""

    def options(quiet: Quiet = False, verbose: Verbose = False, strict: Strict = False, log_format: LogFormat = "text") -> None:
        pass

    return list(inspect.signature(options, eval_str=True).parameters.values())


def _talk(quiet: bool, verbose: bool, strict: bool, log_format: str) -> Talk:
    """Where a command speaks; imported here, since rich's parts take their time."""
    from catcli.talk import Talk

    return Talk(quiet=quiet, verbose=verbose, strict=strict, json_log=log_format == "json")


def _stop(talk: Talk, sentence: str, code: int) -> NoReturn:
    talk.complain(sentence, code)
    raise typer.Exit(code) from None


def asked_for_json_log(arguments: Sequence[str]) -> bool:
    """Whether a command line asks for a log in JSON; looked at before it is read, since what is wrong with it goes into the log too."""
    pairs = itertools.pairwise([*arguments, ""])
    return any(one == "--log-format=json" or (one, other) == ("--log-format", "json") for one, other in pairs)


def wrong_usage(error: typer.TyperException, log_format: str) -> NoReturn:
    """Say what is wrong with a command line, in a sentence like every other."""
    from catcli.config import plain_validation_message

    if type(error).__name__ == "NoArgsIsHelpError":  # and the help was shown
        sys.exit(error.exit_code)
    context = getattr(error, "ctx", None)
    line = context.command_path if context is not None else "catcli"
    said = plain_validation_message(re.sub(r"^Invalid value for '?([^':]+?)'?:", r"\1:", error.format_message())).rstrip(".")
    sentence = f"{said[:1].lower() + said[1:] if not said.startswith('-') else said}; '{line} --help' shows what there is."
    _talk(quiet=False, verbose=False, strict=False, log_format=log_format).complain(sentence, error.exit_code)
    sys.exit(error.exit_code)


def plain_tracebacks() -> None:
    """Have the traceback of a bug printed without control codes: what it tells may be of a stranger's file."""

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        from catcli.wording import printable

        if sys.stderr is not None:
            sys.stderr.write(printable("".join(traceback.format_exception(kind, error, trace))))

    sys.excepthook = show
    threading.excepthook = lambda raised: show(raised.exc_type, raised.exc_value or raised.exc_type(), raised.exc_traceback)


def _imports(frame: FrameType | None) -> bool:
    """Whether a module is being imported: what is raised in there may be swallowed, or taken for a module that is missing."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


class Signals:
    """Ctrl-C as `KeyboardInterrupt`, SIGTERM and SIGHUP as `Terminated`, once: what cleans up is not interrupted by an echo.

    A second one, later than an echo is, ends the process at once. Where a signal is ignored, as by a job in the background or ``nohup``,
    it stays so.
    """

    RAISED: tuple[tuple[signal.Signals, type[BaseException]], ...] = (
        (signal.SIGINT, KeyboardInterrupt),
        (signal.SIGTERM, Terminated),
        *(((signal.SIGHUP, Terminated),) if hasattr(signal, "SIGHUP") else ()),  # not on Windows
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
            # A process that is about to end does so with its exit code, whatever echo comes.
            echo = self._first is not None and handler == signal.SIG_DFL
            signal.signal(number, signal.SIG_IGN if echo else handler)
        sys.unraisablehook = self._hook

    def _came(self, number: int, frame: FrameType | None) -> None:
        if self._first is None and _imports(frame):
            self._later(number)
            return
        if self._first is None:
            self._first = time.monotonic()
            raise KeyboardInterrupt if number == signal.SIGINT else Terminated(signal.Signals(number))
        if time.monotonic() - self._first > ECHO:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    @staticmethod
    def _later(number: int) -> None:
        """Have a signal come again."""
        # To the process, and so to the thread that waits; Windows has no such signals, and would end it.
        send = (os.kill, (os.getpid(), number)) if os.name == "posix" else (signal.raise_signal, (number,))
        again = threading.Timer(0.01, *send)
        again.daemon = True
        again.start()

    def _lost(self, lost: sys.UnraisableHookArgs) -> None:
        """An exception that came while an object was being deleted goes no further: have the signal come again."""
        for number, raised in self.RAISED:
            if issubclass(lost.exc_type, raised):
                self._first = None
                again = lost.exc_value.signal if isinstance(lost.exc_value, Terminated) else number
                self._later(again)
                return
        self._hook(lost)
