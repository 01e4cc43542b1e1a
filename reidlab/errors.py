"""The exception types that the package adds."""


class DataError(ValueError):
    """A file or folder does not hold what it should; the message says which one and what to do.

    Example:
        >>> raise DataError("cuhk-03.mat: got 3 of 9 bytes; copy the file again")
        Traceback (most recent call last):
        reidlab.errors.DataError: cuhk-03.mat: got 3 of 9 bytes; copy the file again
    """


class CollapseError(RuntimeError):
    """A training run put all images into one point, where a triplet loss has nothing left to say."""


class RankError(RuntimeError):
    """One of the processes that work together was lost, or they did not find each other."""


class WorkerError(RuntimeError):
    """A process that reads images for a training run has ended."""
