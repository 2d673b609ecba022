"""One thread for torch: the models are tiny, and other tests run beside these."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
