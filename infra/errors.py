"""Errors that a user can mend: one clear line each, never a stack trace."""


class FanpulseError(Exception):
    """A failure with a message for the user: what, where, and what to do.

    Args:
        message: one line.
        exit_code: what the command exits with; 2 means that the user must change something,
            1 that the work was done and found something wrong, 3 that going on was refused on purpose.
    """

    def __init__(self, message: str, exit_code: int = 2) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code


class SettingsError(FanpulseError):
    """A setting is unknown, malformed, or contradicts another."""


class InfraError(FanpulseError):
    """A service or a tool is missing, not running, or does not answer."""
