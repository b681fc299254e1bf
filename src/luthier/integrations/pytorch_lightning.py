"""PyTorch Lightning, imported as ``pytorch_lightning``: a callback for its Trainer.

>>> def train(trial):
...     trainer = Trainer(max_epochs=trial.max_epochs, callbacks=[LuthierCallback(trial)])
...     trainer.fit(Module(**trial.config), ckpt_path=trial.checkpoint)
>>> lt.tune(train, space, minimize="val_loss")
"""

from __future__ import annotations

from pytorch_lightning.callbacks import EarlyStopping

from luthier.integrations._lightning import Reporting


class LuthierCallback(Reporting, EarlyStopping):
    """See :class:`luthier.integrations._lightning.Reporting`.

    An ``EarlyStopping``, since Lightning calls those once the module has logged its last.
    """
