"""The one exception for what a user can get wrong."""


class UserError(ValueError):
    """Something that the user can mend: a path, a value, a file.

    The message names the value, what was expected and what to do. The commands print it alone,
    without a traceback; from Python it is an ordinary ``ValueError``.
    """
