"""Silence what libraries say on every run and nobody can act on, each by its exact words."""

import logging
import os
import warnings

_LOGGED = (
    "GPU available: False, used: False",
    "TPU available: False, using: 0 TPU cores",
    "💡 Tip: For seamless cloud logging and experiment tracking, try installing [litlogger]",
    "💡 Tip: For seamless cloud uploads and versioning, try installing [litmodels]",
    "`Trainer.fit` stopped:",
    "`Trainer.validate` stopped:",
    "\nDetected KeyboardInterrupt, attempting graceful shutdown ...",  # the command line says it
)
_WARNED = (
    # Lightning 2.6.6 on torch 2.15
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    # The run folder has its config, and a checkpoint that is replaced on purpose.
    r"Checkpoint directory .* exists and is not empty",
    # The backbone always is: that is what freezing means.
    r"Found \d+ module\(s\) in eval mode at the start of training",
    # Snapshots are compared on held-out images by a callback.
    r"You passed in a `val_dataloader` but have no `validation_step`",
    # The embedded network is validated once, after its training.
    "You defined a `validation_step` but have no `val_dataloader`",
    # Features are one batch in memory: there is nothing for a worker to do.
    r"The 'train_dataloader' does not have many workers",
)


class _Unsaid(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(_LOGGED)


_let_through = False


def let_through() -> None:
    """Silence nothing in this process: what ``--verbose`` asks for."""
    global _let_through
    _let_through = True


def silence() -> None:
    """Filter the known messages out of Lightning's log and the warnings of this process; may be called often."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # albumentations asks the network for news at import
    if _let_through:
        return
    for name in ("pytorch_lightning.utilities.rank_zero", "lightning.pytorch.utilities.rank_zero"):
        logger = logging.getLogger(name)
        if not any(isinstance(known, _Unsaid) for known in logger.filters):
            logger.addFilter(_Unsaid())
    for message in _WARNED:
        warnings.filterwarnings("ignore", message=message)
