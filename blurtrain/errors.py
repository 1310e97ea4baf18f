"""Errors that a user can cause and mend.

Each message is one sentence: what was found, what is allowed, and the way on. Programming mistakes
stay ``ValueError``; only the command line catches the errors of this tree.

    BlurtrainError
    ├── ConfigError     a key or value in a config or on the command line
    ├── DataError       images and folders
    ├── BackboneError   an imported network and its weights
    ├── StoreError      the store of pixels and features
    └── RunError        run and comparison folders
"""


class BlurtrainError(Exception):
    """Whatever a user can cause; the message is the sentence that the user reads."""


class ConfigError(BlurtrainError):
    """A key or value that a config may not have."""


class DataError(BlurtrainError):
    """Images or folders that cannot be used as they are."""


class BackboneError(BlurtrainError):
    """A network or weights that cannot be imported."""


class StoreError(BlurtrainError):
    """A stored file that cannot be read or written."""


class RunError(BlurtrainError):
    """A run folder that does not fit what is asked of it."""
