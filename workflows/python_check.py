"""Refuses unsupported Python versions. Any Python 3 must be able to parse this file and the files that import it."""

import sys

OLDEST, NEWEST = (3, 10), (3, 14)


def check_python(version: tuple = tuple(sys.version_info)) -> None:
    """Ends the program with one sentence unless `version` is supported."""
    if not OLDEST <= version[:2] <= NEWEST:
        sys.exit(
            "This needs Python {}.{} to {}.{}, but is running on {}.{}; start it with another Python.".format(
                *(OLDEST + NEWEST + tuple(version[:2]))
            )
        )
