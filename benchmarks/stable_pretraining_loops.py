"""Training loops of stable-pretraining, its `Module` in a Lightning trainer, for `peers.py`.

Projectors have headsearch's sizes, and are built as in the library's own examples. DINO's
prototypes are a linear layer without a norm, as in the library. MoCo v3 is left out, because the
library has no forward function for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import lightning
import stable_pretraining
from lightning.pytorch.callbacks import Callback
from plain_loops import Model, Setting
from stable_pretraining import forward, losses
from stable_pretraining.backbone import L2Norm
from stable_pretraining.callbacks import TeacherStudentCallback
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

OBJECTIVES = ("dino", "simclr")


class StablePretrainingLoop:
    """An objective in stable-pretraining, several steps at a time: Lightning runs the loop.

    Args:
        backbone: a timm model without classifier.
        setting: the objective and its hyperparameters.
    """

    def __init__(self, backbone: nn.Module, setting: Setting) -> None:
        self.setting = setting
        projector = Model(backbone, setting).projector

        optimizer = {"type": "AdamW", "lr": setting.lr, "weight_decay": setting.weight_decay}
        shared: dict[str, Any] = {"optim": {"optimizer": optimizer}}
        if setting.objective == "dino":
            projector += nn.Sequential(
                L2Norm(), nn.Linear(setting.width, setting.prototypes, bias=False)
            )
            wrapper = stable_pretraining.TeacherStudentWrapper
            self.module = stable_pretraining.Module(
                forward=forward.dino,
                backbone=wrapper(backbone, base_ema_coefficient=setting.momentum),
                projector=wrapper(projector, base_ema_coefficient=setting.momentum),
                dino_loss=losses.DINOv1Loss(),
                temperature_teacher=setting.temperature,
                **shared,
            )
        else:
            self.module = stable_pretraining.Module(
                forward=forward.simclr,
                backbone=backbone,
                projector=projector,
                simclr_loss=losses.NTXEntLoss(temperature=0.1),
                **shared,
            )

    def seconds(self, crops: Tensor, steps: int, now: Callable[[], float]) -> float:
        """Seconds of `steps` steps, after one that is not counted: the trainer starts in it.

        Args:
            crops: (2, B, 3, S, S).
            steps: how many.
            now: returns the time in seconds.
        """
        clock = _Clock(now)
        trainer = lightning.Trainer(
            accelerator="cpu",
            precision="bf16-mixed" if self.setting.autocast else "32-true",
            max_epochs=2,
            max_steps=steps + 1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[TeacherStudentCallback(), clock],
        )
        trainer.fit(self.module, DataLoader(_Same(self._batch(crops)), batch_size=None))
        assert len(clock.ends) == steps + 1
        return clock.ends[-1] - clock.ends[0]

    def _batch(self, crops: Tensor) -> dict[str, Any]:
        views = [{"image": crop} for crop in crops]
        if self.setting.objective == "dino":
            return {f"global_{number}": view for number, view in enumerate(views)}
        return {"views": views}


class _Clock(Callback):
    """Notes the time after each step."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.ends: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.ends.append(self.now())


class _Same(IterableDataset[dict[str, Any]]):
    """The same batch without end."""

    def __init__(self, batch: dict[str, Any]) -> None:
        self.batch = batch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while True:
            yield dict(self.batch)
