"""The batch norm of the original Models Genesis network: the batch's own statistics, always."""

import torch
from torch import nn
from torch.nn import functional


class BatchStatisticsNorm(nn.Module):
    """Batch norm that uses the statistics of the batch in evaluation too.

    ``running_mean``, ``running_var`` and ``num_batches_tracked`` give the published file's tensors a place; they are
    neither read nor updated.

    Args:
        num_features: channels C of the input (B, C, Z, Y, X).
        eps: added to the variance; PyTorch's default is 1e-5, Keras' 1e-3.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor

    # Not a torch.nn.BatchNorm3d: under DDP nnU-Net would turn that into a SyncBatchNorm, which validates with running
    # statistics, so that training would select its best epoch by another network than the one that predicts.
    def __init__(self, num_features: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise (B, C, Z, Y, X) over all axes but C."""
        return functional.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)

    def extra_repr(self) -> str:
        """Shown by ``print(network)``."""
        return f"{self.weight.numel()}, eps={self.eps}"
