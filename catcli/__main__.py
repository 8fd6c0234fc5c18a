"""``python -m catcli`` and the command ``catcli``."""

import os
import signal

# Threads that wait sleep. Where they spin, as OpenMP has them do by default, a fit beside two busy processes takes seven times as long on
# two cores, and so twice; alone it takes up to 7 % longer (tests/bench/README.md). OpenMP reads this once, when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Until a command listens, Ctrl-C ends the process as it ends cat, without the traceback of a half-done import.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from catcli.cli.main import main

if __name__ == "__main__":
    main()
