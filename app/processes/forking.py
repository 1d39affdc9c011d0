"""One process of the supervisor's: forked, so that it starts at once and shares the memory of what is loaded already.

A forked process ends with its parent, whatever happens to that: the kernel kills it (`PR_SET_PDEATHSIG` on Linux), and
elsewhere it finds its channel closed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_NAME_BYTES = 15
"""Longer names of processes are cut by the kernel (prctl(2))."""
_BLOCKED_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGCHLD})
FAILED = 70
"""Exit code of a process that ended with an unexpected exception (sysexits(3): EX_SOFTWARE)."""


def fork_process(main: Callable[[], int], *, name: str, close: Iterable[int] = ()) -> int:
    """Fork, and run a function in the child, whose return value is its exit code; return the child's process id.

    - `main`: what the child does. It finds no event loop and no signal handler of the parent's
    - `name`: what the kernel shows as the name of the child's main thread
    - `close`: file descriptors of the parent's that the child must not keep open

    Call it from the main thread of a process without other threads, which a fork would lose.
    """
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    before = signal.pthread_sigmask(
        signal.SIG_BLOCK, _BLOCKED_SIGNALS
    )  # else the parent's handlers might run in the child
    try:
        child = os.fork()
        if child == 0:
            _run_child(main, name=name, close=close, parent=parent, signals=before)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return child


def _run_child(
    main: Callable[[], int], *, name: str, close: Iterable[int], parent: int, signals: Iterable[int]
) -> None:
    """Run the child to its end: nothing of the parent's stack below may run here."""
    code = FAILED
    try:
        signal.set_wakeup_fd(-1)
        for number in _BLOCKED_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        _end_with_parent(parent, name)
        for descriptor in close:
            os.close(descriptor)
        signal.pthread_sigmask(signal.SIG_SETMASK, signals)
        code = main()
    except BaseException:  # noqa: BLE001 — it would go on in what the parent was doing
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _end_with_parent(parent: int, name: str) -> None:
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        libc.prctl(_PR_SET_NAME, name.encode()[:_NAME_BYTES], 0, 0, 0)
    if os.getppid() != parent:  # it ended before the kernel was asked to tell
        os._exit(FAILED)
