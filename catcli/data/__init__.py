import signal

import polars  # noqa: F401  # see below

if hasattr(signal, "siginterrupt"):  # not on Windows
    # polars takes SIGINT over when it is imported, and has the system begin again what the signal interrupts: a read from a silent pipe, or
    # a wait for a thread, would outlast Ctrl-C.
    signal.siginterrupt(signal.SIGINT, True)
