"""What the five scripts of Autopick-BC share."""

__version__ = "1.0.0"


class ApbcError(Exception):
    """Something is wrong with the user's data or request; the text is one line for the user."""
