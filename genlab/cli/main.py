"""From the words after `genlab` to a verb, and from what went wrong to one sentence and a code.

Only the standard library is imported here: help, names and mistakes must not wait for Hydra or
torch. A verb that needs them imports them when it is its turn.
"""

from __future__ import annotations

import os
import signal
import sys

from genlab import __version__
from genlab.cli.verb import FLAGS, VERBS, Call
from genlab.core.console import redraws
from genlab.core.cores import watch
from genlab.core.errors import ConfigError, Stopped, explain
from genlab.core.format import clean
from genlab.core.openmp import limit_spinning

__all__ = ["main"]


INTERRUPTED = 130  # exit code of Ctrl-C

_SAME = {"--multirun": "-m", "-h": "--help", "--verbose": "-v", "-V": "--version"}
_FIELDS = {
    "-m": "multirun",
    "-v": "verbose",
    "--dry-run": "dry_run",
    "--json": "json",
    "--help": "help",
    "--version": "version",
}


# --- from argv to a call -------------------------------------------------------------------------


def _parse(argv: list[str]) -> Call:
    """Flags may stand anywhere; the first other word is the verb."""
    words: list[str] = []
    folders: list[str] = []
    switches: dict[str, bool] = {}
    seen: dict[str, str] = {}  # flag as listed -> as typed
    rest = iter(argv)
    for word in rest:
        flag, equals, value = word.partition("=")
        flag = _SAME.get(flag, flag)
        if flag in ("--cfg", "--config-dir"):
            value = value if equals else next(rest, "")
            if flag == "--cfg":
                if value != "job":
                    raise ConfigError("--cfg takes the word job: genlab train --cfg job")
                switches["cfg"] = True
            else:
                if not value:
                    raise ConfigError("--config-dir needs a folder: --config-dir DIR")
                folders.append(value)
            seen["--cfg job" if flag == "--cfg" else "--config-dir DIR"] = word
        elif flag in _FIELDS and not equals:
            switches[_FIELDS[flag]] = True
            seen[flag] = word
        elif word.startswith("-"):
            from genlab.core.registry import suggest

            near = suggest(flag, [f.split()[0] for f in FLAGS])
            raise ConfigError(f"no flag {word!r}. {near or 'Options are written key=value.'}")
        else:
            words.append(word)
    verb = words.pop(0) if words else ""
    call = Call(verb, tuple(words), config_dirs=tuple(folders), **switches)
    if verb in VERBS:
        for flag, word in seen.items():
            if flag not in (*VERBS[verb].flags, "--help", "--version", "-v"):
                takes = [v for v, other in VERBS.items() if flag in other.flags]
                raise ConfigError(f"{verb} has no flag {word!r}; it goes with {', '.join(takes)}")
    return call


def _unknown_verb(word: str) -> ConfigError:
    from genlab.core.registry import suggest

    if "=" in word:
        return ConfigError(f"{word!r} needs a verb before it: genlab train {word}")
    near = suggest(word, VERBS) or "There are: " + ", ".join(VERBS) + "."
    return ConfigError(f"no verb {word!r}. {near} (`genlab --help` explains them)")


def _dispatch(call: Call) -> int:
    if call.version:
        print(f"genlab {__version__}")
        return 0
    if call.verb and call.verb not in VERBS:
        raise _unknown_verb(call.verb)
    if call.help or not call.verb:
        from genlab.cli.help import program_help, verb_help

        verb = VERBS.get(call.verb)
        print(verb_help(call.verb, verb, FLAGS) if verb else program_help(VERBS, FLAGS))
        return 0
    return VERBS[call.verb].run(call)


def main(argv: list[str] | None = None) -> int:
    """Runs one command line and gives its exit code; every error becomes a sentence here."""
    program = argv is None
    argv = sys.argv[1:] if argv is None else argv
    limit_spinning()
    watch()
    call = Call(verbose="-v" in argv)
    try:
        if argv[:1] == ["__complete"]:
            from genlab.cli import completion

            print("\n".join(completion.candidates(" ".join(argv[1:]))))
            return 0
        if argv[:1] == ["__work"]:
            from genlab.training import run_loop

            return run_loop.main(argv[1:])
        call = _parse(argv)
        code = _dispatch(call)
        sys.stdout.flush()  # a closed pipe shall show here, not at the interpreter's exit
        return code
    except BrokenPipeError:
        # nothing can be said any more; `genlab list | head -1` is no error, a cut training is
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        worked = call.verb in ("train", "resume", "sample", "eval") and not (call.help or call.cfg)
        return 141 if worked else 0
    except (Exception, KeyboardInterrupt) as error:
        if program:  # nothing is left to stop, and Python would show where it stood at its exit
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        code, lines = explain(error, call.verb)
        if code == INTERRUPTED and sys.stderr.isatty():  # which has written ^C
            after_signals = isinstance(error, Stopped)  # that began a line where none is redrawn
            new = "\r\x1b[K" if redraws(sys.stderr) else "" if after_signals else "\n"
            print(end=new, file=sys.stderr)
        if call.verbose:
            import traceback

            traceback.print_exc()
        for line in lines:
            print(f"genlab: {clean(line)}", file=sys.stderr)
        return code
