"""`python -m hitless.lab.kernel [options] -- COMMAND...`: run a command in a kernel that has ESP.

Standard output and error are the command's, and so is the exit status; 124 at the time limit, 125 when the kernel
itself could not be had or died, 2 for a usage error.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hitless.lab.kernel import LabError, choose

_FAILED: Final = 125  # as timeout(1), env(1) and container tools say "the wrapper failed, not the command"
_INTERRUPTED: Final = 130  # 128 + SIGINT, as shells report it


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run, report; the exit status for the shell."""
    parser = argparse.ArgumentParser(
        prog="python -m hitless.lab.kernel",
        description="Run a command as root in a kernel that has ESP, with a network of its own.",
    )
    parser.add_argument("--kernel", choices=("auto", "host", "uml", "qemu"), default="auto")
    parser.add_argument("--timeout", type=float, default=600.0, metavar="SECONDS", help="default: %(default)s")
    parser.add_argument("--results", type=Path, metavar="DIRECTORY", help="kept; without it a temporary one is used")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="repeatable")
    parser.add_argument("command", nargs="+", metavar="COMMAND", help="after --")
    options = parser.parse_args(arguments)
    if any(item.find("=") < 1 for item in options.env):
        parser.error("--env takes NAME=VALUE")
    env = dict(item.split("=", 1) for item in options.env)
    try:
        kernel = choose(options.kernel)
        if options.results is not None:
            return kernel.run(options.command, results=options.results, env=env, timeout_seconds=options.timeout)
        with tempfile.TemporaryDirectory(prefix="hitless-results-") as results:
            return kernel.run(options.command, results=Path(results), env=env, timeout_seconds=options.timeout)
    except LabError as error:
        sys.stderr.write(f"hitless: {error} [{error.code}]\n")
        return _FAILED
    except KeyboardInterrupt:
        return _INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
