"""Errors that only the client raises; they never cross the wire (see `kvstore.errors` for the tree they hang in)."""

from __future__ import annotations

from kvstore.errors import ClientError, IndeterminateError

__all__ = ["ClientClosed", "ClientForked", "InvalidSession", "SessionFull", "UpdateUnresolved"]


class ClientClosed(ClientError):
    """The client was closed; this operation was not sent."""

    code = "client_closed"


class ClientForked(ClientError):
    """This process is a forked child of the one that opened the client: its connections and threads stayed there."""

    code = "client_forked"


class InvalidSession(ClientError):
    """These bytes are not the token of a session, or not all of it, or of a newer format."""

    code = "invalid_session"


class SessionFull(ClientError):
    """The session would have to forget what it has seen to take this operation: it was not sent. Begin another session."""

    code = "session_full"


class UpdateUnresolved(IndeterminateError):
    """An `update` wrote its value, but concurrent values remain beside it (`siblings`) after `attempts` attempts."""

    code = "update_unresolved"
