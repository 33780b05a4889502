"""What the five scripts of Autopick-BC share."""

__version__ = "1.0.0"


class ApbcError(Exception):
    """Something is wrong with the user's data or request; the text is one line for the user."""


class SomeSkipped(ApbcError):
    """The work is done but for what the text names; ``made`` is what it would have returned."""

    def __init__(self, text, made):  # noqa: D107
        super().__init__(text)
        self.made = made
