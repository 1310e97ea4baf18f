"""The command line: which function runs a command, and the one place that catches what a user can cause."""

import atexit
import gc
import io
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from blurtrain import chatter, commands, tools
from blurtrain.errors import BlurtrainError, ConfigError
from blurtrain.lean import put_off
from blurtrain.options import suggest
from blurtrain.parsers import COMMANDS as COMMANDS
from blurtrain.parsers import VERBOSE, VERBOSE_SHOWS
from blurtrain.progress import folded, one_line
from blurtrain.version import VERSION

USER_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells report it
STORING = ("train", "compare", "evidence", "recommend", "pretrained", "layers")  # what they compute, as they go
MOST_CHARACTERS = 1000  # of an error: a wrong value may be as long as it likes


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code: 0, 1 where check-data found a problem or predict could classify no file, 2 for what the user can
        mend, 130 when interrupted.
    """
    command, *words = _without_verbose(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    signal.signal(signal.SIGTERM, _interrupt)
    put_off()
    atexit.register(gc.freeze)  # or the interpreter looks through all that the libraries have made, for seconds
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names may hold what the terminal's encoding has not
    try:
        if command in ("-h", "--help"):
            print(_overview())
            return 0
        if command == "--version":
            print(f"blurtrain {VERSION}")
            return 0
        if command not in COMMANDS:
            raise ConfigError(f"command {command!r} is not known: {suggest(command, list(COMMANDS))}")
        return _RUN[command](words) or 0
    except BlurtrainError as error:
        return _refused(str(error))
    except KeyboardInterrupt:
        way_on = "goes on from what is stored" if command in STORING else "begins anew"
        print(f"\nblurtrain: interrupted; the same command {way_on}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone, as in `blurtrain cache | head`
        sys.stderr.close()
        return 0
    except OSError as error:  # what nobody nearer could say more about
        if error.filename is None:
            raise
        place = f"{error.filename} cannot be used ({error.strerror})"
        return _refused(f"{place}: mend its permissions, or give another place")


def _refused(sentence: str) -> int:
    sentence = one_line(sentence)
    if len(sentence) > MOST_CHARACTERS:
        sentence = f"{sentence[: MOST_CHARACTERS // 2]} ... {sentence[-MOST_CHARACTERS // 2 :]}"
    print(folded(f"blurtrain: error: {sentence}"), file=sys.stderr)
    return USER_ERROR


def _without_verbose(words: Sequence[str]) -> list[str]:
    """Obey the switch, which may stand anywhere before a ``--``, as no option has such a value; the other words."""
    end = list(words).index("--") if "--" in words else len(words)
    if set(VERBOSE) & set(words[:end]):
        chatter.let_through()
    return [word for place, word in enumerate(words) if place > end or word not in VERBOSE]


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _overview() -> str:
    lines = [f"  {name:<11} {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: blurtrain COMMAND [options]",
            "",
            "Shows how blur breaks an image classifier, and repairs it with slightly blurred training copies.",
            "",
            *lines,
            "",
            f"{', '.join(VERBOSE)} with any command shows {VERBOSE_SHOWS}.",
            "blurtrain COMMAND --help explains a command; blurtrain compare needs no options at all.",
        ]
    )


_RUN: dict[str, Callable[[Sequence[str]], int | None]] = {
    "train": commands.train,
    "compare": commands.compare,
    "evidence": commands.evidence,
    "recommend": commands.recommend,
    "pretrained": commands.pretrained,
    "layers": commands.layers,
    "predict": tools.predict,
    "export": tools.export,
    "preview": commands.preview,
    "check-data": commands.check_data,
    "report": tools.report,
    "tensorboard": tools.tensorboard,
    "backbones": tools.backbones,
    "cache": tools.cache,
    "pretrain": tools.pretrain,
}
