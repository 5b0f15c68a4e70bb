"""The error tree, and the one map from an error to what is done about it.

Every error a user can meet is a :class:`SidecarError`: its message is one readable line, its ``mend`` says what to do.
"""

from __future__ import annotations

import enum


class SidecarError(Exception):
    """Base of all errors of this project. ``mend`` is the remedy, shown after the message."""

    def __init__(self, message: str, *, mend: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.mend = mend

    def line(self) -> str:
        """The message and the mend as one line."""
        text = f"{self.message}; {self.mend}" if self.mend else self.message
        return " ".join(text.split())


class UsageError(SidecarError):
    """Bad usage or configuration: exit status 2."""


class ConfigurationError(UsageError):
    """The TOML file, the environment, a server setting or a privilege is wrong."""


class AnnotationError(UsageError):
    """A ``@crdt`` annotation cannot be understood. ``position`` is the 0-based offset in the comment."""

    def __init__(self, message: str, *, position: int = 0, mend: str = "") -> None:
        super().__init__(message, mend=mend)
        self.position = position


class SchemaError(UsageError):
    """A table cannot be replicated as annotated."""


class ProtocolError(SidecarError):
    """Input from a stream or a peer is not what the protocol says. The connection is dropped, nothing else."""


class DecodeError(ProtocolError):
    """A pgoutput message is truncated or malformed. ``offset`` is the byte at which decoding stopped."""

    def __init__(self, message: str, *, offset: int = 0, mend: str = "") -> None:
        super().__init__(message, mend=mend)
        self.offset = offset


class FrameError(ProtocolError):
    """A peer frame is truncated, too long, of an unknown version, or its checksum differs."""


class LinkRefusedError(ProtocolError):
    """The peer may not be linked: other cluster, same node id, unknown name, no common protocol version, a certificate
    that is not its own. ``cause`` is a short fixed word: it becomes a label. ``peer_cause``: the word of the peer,
    where it was the one to refuse."""

    def __init__(self, message: str, *, mend: str = "", cause: str = "other", peer_cause: str = "") -> None:
        super().__init__(message, mend=mend)
        self.cause = cause
        self.peer_cause = peer_cause


class TransientError(SidecarError):
    """Expected to pass by itself: lost connection, lock timeout, server restart."""


class DirtyRowsError(TransientError):
    """A merge met rows with local commits that are not captured yet (invariant 4)."""


class HeldError(TransientError):
    """A change set cannot be merged until somebody acts (unknown table, missing column); retried until then."""


class ApplyError(SidecarError):
    """A change can never apply as it is; the row is quarantined with this reason. ``sqlstate`` is PostgreSQL's code."""

    def __init__(self, message: str, *, sqlstate: str = "", mend: str = "") -> None:
        super().__init__(message, mend=mend)
        self.sqlstate = sqlstate


class FatalError(SidecarError):
    """The process must end: another sidecar owns the database, the slot is gone, state is damaged."""


class Action(enum.Enum):
    """What to do after an error."""

    RETRY_NOW = "retry now"
    RETRY_LATER = "retry later"
    OPERATOR = "needs an operator"
    FATAL = "fatal"


# Classes or codes of https://www.postgresql.org/docs/current/errcodes-appendix.html, longest prefix wins.
SQLSTATE_ACTIONS: dict[str, Action] = {
    "40": Action.RETRY_NOW,  # transaction rollback: serialization failure, deadlock
    "55P03": Action.RETRY_NOW,  # lock_not_available: lock_timeout, the sidecar gives way
    "57014": Action.RETRY_NOW,  # query_canceled
    "08": Action.RETRY_LATER,  # connection exceptions
    "53": Action.RETRY_LATER,  # insufficient resources: disk full, too many connections
    "57": Action.RETRY_LATER,  # operator intervention: shutdown, crash recovery, cannot connect now
    "58": Action.RETRY_LATER,  # system error
    "55": Action.RETRY_LATER,  # object in use: slot is active
    "25006": Action.RETRY_LATER,  # read_only_sql_transaction: a standby, until it is promoted
    "21": Action.OPERATOR,
    "22": Action.OPERATOR,  # data exception
    "23": Action.OPERATOR,  # integrity constraint violation
    "28": Action.FATAL,  # invalid authorization
    "3D": Action.FATAL,  # the database does not exist
    "42501": Action.OPERATOR,  # insufficient privilege
    "42": Action.OPERATOR,
    "P0": Action.OPERATOR,  # raised by a user's function or trigger
    "XX": Action.OPERATOR,  # internal error
}


def action_for(error: BaseException) -> Action:
    """Map an error to its action; pure. An unknown error needs an operator, but is retried meanwhile."""
    if isinstance(error, FatalError | UsageError):
        return Action.FATAL
    if isinstance(error, DirtyRowsError):
        return Action.RETRY_NOW
    if isinstance(error, ApplyError):
        return Action.OPERATOR
    if isinstance(error, TransientError | ProtocolError | ConnectionError | TimeoutError | OSError):
        return Action.RETRY_LATER
    sqlstate = getattr(error, "sqlstate", None)
    if isinstance(sqlstate, str):
        for length in (5, 2):
            action = SQLSTATE_ACTIONS.get(sqlstate[:length])
            if action is not None:
                return action
    return Action.OPERATOR
