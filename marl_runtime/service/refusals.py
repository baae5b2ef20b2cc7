"""Why a request is refused, with the HTTP status that says so."""

from __future__ import annotations


class Refusal(Exception):
    """A request that is not answered as asked; the text says what was expected."""

    status = 400


class Unknown(Refusal):
    """A session that there is not, or not any more."""

    status = 404


class Slow(Refusal):
    """A request that did not arrive in time."""

    status = 408


class Busy(Refusal):
    """A session that is acting already, or a game that is taken."""

    status = 409


class TooLarge(Refusal):
    """A request of more bytes than any that makes sense."""

    status = 413


class NotJson(Refusal):
    """A request that does not say that it is JSON."""

    status = 415


class Unfit(Refusal):
    """Values that do not fit the agent's spaces."""

    status = 422


class Full(Refusal):
    """As many sessions as there may be."""

    status = 503
