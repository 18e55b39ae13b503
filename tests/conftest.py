"""What every test starts from."""

import torch

# Tests run side by side; more threads than cores make each other wait.
torch.set_num_threads(1)
