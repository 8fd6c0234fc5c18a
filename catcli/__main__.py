"""``python -m catcli`` and the command ``catcli``."""

import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Until a command listens, Ctrl-C ends the process as it ends cat, without the traceback of a half-done import.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from catcli.cli.main import main

if __name__ == "__main__":
    main()
