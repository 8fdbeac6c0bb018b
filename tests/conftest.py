"""One torch thread per worker: two workers on two cores otherwise fight over them."""

import torch

torch.set_num_threads(1)
