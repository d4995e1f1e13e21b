"""The three ways in which a command ends early. Each message says what, where, and the remedy."""


class UserError(Exception):
    """A mistake of the user's that the user can mend. Exit status 2."""

    exit_code = 2


class EnvironmentFault(Exception):
    """The machine, the network or the store is not as needed. Exit status 1."""

    exit_code = 1


class LeakError(UserError):
    """Test subjects were seen in training, and nobody said that the split may leak."""
