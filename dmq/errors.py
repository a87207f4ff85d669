"""The one error type that people see."""


class DmqError(Exception):
    """Something the user can fix: shown as one sentence (where, what, what next) in the CLI and in the app."""


class Refused(DmqError):
    """What a visitor of a public app may not have: the same words whatever was asked, and nothing around them."""
