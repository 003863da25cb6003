"""How a program is started from the command line, and how it ends."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import tyro

from entropax.distributed import is_lead
from entropax.experiments.compilation_cache import use_compilation_cache
from entropax.experiments.device_options import PreemptedError
from entropax.experiments.stopwatch import stopwatch


def run_command(
    run: Callable[[Any], object], config: type, module: Any, args: Sequence[str] | None
) -> None:
    """Run a program with a `Config` made of the command line.

    Wrong input ends with one sentence and exit code 2, a numerical failure with 1, Ctrl-C with 130,
    and several processes that are told to end by SIGTERM with 143. What ends one of several
    otherwise ends all of them, as `entropax.distributed.initialize` says.

    Compiled programs are kept for the next time. The last line on stderr tells the seconds until
    the first result and in all.

    Args:
      run: the program.
      config: the dataclass of its options.
      module: its package; the name is the command, the docstring its description.
      args: the words of the command line; by default those of this process.
    """
    use_compilation_cache()
    stopwatch.start()
    try:
        run(
            tyro.cli(
                config,
                prog=f"python -m {module.__name__}",
                description=module.__doc__,
                args=args,
            )
        )
        if is_lead():
            print(stopwatch.words(), file=sys.stderr)
    except PreemptedError as error:
        print(f"stopped: {error}; the same command goes on from here", file=sys.stderr)
        sys.exit(143)
    except (ValueError, OSError) as error:
        if jax.distributed.is_initialized():
            raise  # it ends the other processes as well
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except FloatingPointError as error:
        if jax.distributed.is_initialized():
            raise
        print(f"stopped: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        if jax.distributed.is_initialized():
            raise
        print("stopped: the same command goes on from here", file=sys.stderr)
        sys.exit(130)
