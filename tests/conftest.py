"""What every test starts from."""

import pytest
import torch

from headsearch.data.dense import built_in

# Tests run side by side; more threads than cores make each other wait.
torch.set_num_threads(1)


@pytest.fixture
def small_dense_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The built-in dense sets with as few images as are allowed."""
    monkeypatch.setattr(built_in, "TRAIN_IMAGES", 24)
    monkeypatch.setattr(built_in, "EVALUATION_IMAGES", 40)
