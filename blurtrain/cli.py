"""The command line: which function runs a command, and the one place that catches what a user can cause."""

import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from blurtrain import commands, tools
from blurtrain.errors import BlurtrainError, ConfigError
from blurtrain.lean import put_off
from blurtrain.options import suggest
from blurtrain.parsers import COMMANDS as COMMANDS
from blurtrain.progress import one_line
from blurtrain.version import VERSION

USER_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells report it
MOST_CHARACTERS = 1000  # of an error: a wrong value may be as long as it likes


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code: 0, 2 for what the user can mend, 130 when interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    put_off()
    try:
        if not words or words[0] in ("-h", "--help"):
            print(_overview())
            return 0
        if words[0] == "--version":
            print(f"blurtrain {VERSION}")
            return 0
        if words[0] not in COMMANDS:
            raise ConfigError(f"command {words[0]!r} is not known: {suggest(words[0], list(COMMANDS))}")
        _RUN[words[0]](words[1:])
    except BlurtrainError as error:
        return _refused(str(error))
    except KeyboardInterrupt:
        print("\nblurtrain: interrupted; the same command goes on from what is stored", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone, as in `blurtrain cache | head`
        sys.stderr.close()
        return 0
    except OSError as error:  # what nobody nearer could say more about
        if error.filename is None:
            raise
        place = f"{error.filename} cannot be used ({error.strerror})"
        return _refused(f"{place}: mend its permissions, or give another place")
    return 0


def _refused(sentence: str) -> int:
    sentence = one_line(sentence)
    if len(sentence) > MOST_CHARACTERS:
        sentence = f"{sentence[: MOST_CHARACTERS // 2]} ... {sentence[-MOST_CHARACTERS // 2 :]}"
    print(f"blurtrain: error: {sentence}", file=sys.stderr)
    return USER_ERROR


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
            "blurtrain COMMAND --help explains a command; blurtrain compare needs no options at all.",
        ]
    )


_RUN: dict[str, Callable[[Sequence[str]], None]] = {
    "train": commands.train,
    "compare": commands.compare,
    "evidence": commands.evidence,
    "recommend": commands.recommend,
    "pretrained": commands.pretrained,
    "layers": commands.layers,
    "predict": tools.predict,
    "export": tools.export,
    "preview": commands.preview,
    "tensorboard": tools.tensorboard,
    "backbones": tools.backbones,
    "cache": tools.cache,
    "pretrain": tools.pretrain,
}
