"""Locks on open files (flock): the system gives one back when its holder ends, however it ends."""

import errno
import fcntl


def hold(descriptor: int, wait: bool) -> str | None:
    """Lock an open file for this process until it is closed.

    Args:
        descriptor: of the file or folder.
        wait: until whoever holds it lets go.

    Returns:
        None: it is held. Else why nobody can: some file systems have no locks, so two may be at work at once.

    Raises:
        BlockingIOError: another process holds it, and this one should not wait.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise BlockingIOError(error.errno, error.strerror) from error
        return error.strerror or str(error)
    return None
