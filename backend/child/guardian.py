"""Stands between a keeper and the command that it starts, so that nothing of it is left: python -I -S guardian.py FD COMMAND...

FD is the reading end of a pipe whose other end only the keeper has. When the command has ended, or that pipe ends (the keeper
closed it, or died in whatever way), or a SIGTERM comes, every process below this one is killed. Daemons too: this process is
the subreaper (prctl(2)) of all that come from it, whatever session they made for themselves. It ends as the command did, by
the same signal or exit status. Standard library only: it is started by its path, before any environment is set up.
"""

import ctypes
import os
import resource
import select
import signal
import sys
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
NO_SUCH_COMMAND = 127
PATIENCE = 5.0
"""Seconds for killed processes to go; one in an uninterruptible wait for a device may take longer, and is left."""


def _prctl(option: int, argument: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, argument, 0, 0, 0)


def _start(command: list[str], lifeline: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    os.close(lifeline)
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
    os._exit(NO_SUCH_COMMAND)


def below(root: int) -> list[int]:
    """All processes that come from this one."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    parent = int(file.read().rpartition(b")")[2].split()[1])
            except (OSError, IndexError, ValueError):
                continue  # it has just ended
            children.setdefault(parent, []).append(int(name))
    found, frontier = [], [root]
    while frontier:
        frontier = [pid for parent in frontier for pid in children.get(parent, [])]
        found += frontier
    return found


def _end_all(status: int | None, command: int) -> int:
    """Kills until nobody is left; the command's wait status."""
    ends = time.monotonic() + PATIENCE
    while time.monotonic() < ends:
        for pid in below(os.getpid()):
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                continue
        try:
            pid, ended = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if pid == command and status is None:
            status = ended
        if not pid:
            time.sleep(0.001)
    return signal.SIGKILL if status is None else status


def main(lifeline: int, command: list[str]) -> None:
    """Runs the command to its end or the keeper's, whichever comes first."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    _prctl(PR_SET_PDEATHSIG, signal.SIGCONT)  # somebody may have stopped us: the end of the pipe alone wakes nobody then
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(woken, False)
    os.set_inheritable(lifeline, False)
    child = _start(command, lifeline)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)  # whoever reads the command's output must see it end with the command
    poll = select.poll()
    poll.register(woken, select.POLLIN)
    poll.register(lifeline, select.POLLIN)
    status = None
    signals: bytes = bytes([signal.SIGCHLD])  # it may have ended before the handler was there
    asked = False
    while status is None and not asked:
        while True:
            try:
                pid, ended = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == child:
                status = ended
            if not pid:
                break
        if status is not None:
            break
        ready = dict(poll.poll())
        if woken in ready:
            signals = os.read(woken, 4096)
            asked = any(number != signal.SIGCHLD for number in signals)
        asked = asked or lifeline in ready
    status = _end_all(status, child)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [-code])
        os.kill(os.getpid(), -code)
    os._exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
