"""The passes through the model as CUDA graphs: a GPU need not wait for Python."""

import copy
import warnings

from torch import Tensor, cuda, nn, random
from torch.autograd.graph import set_warn_on_accumulate_grad_stream_mismatch


class Replayed(nn.Module):
    """Computes what ``model`` does, and its gradients.

    The first batch of ``size`` is recorded; each further one starts all kernels by one call where
    there were some 150, which take a host longer to start than a small batch takes to compute.
    Batches of other sizes go through ``model`` itself.

    Args:
        model: in training mode whenever it is called, always under the same autocast, which must
            not keep the weights that it casts (``cache_enabled=False``).
        size: of the batches that are replayed.
    """

    def __init__(self, model: nn.Module, size: int) -> None:
        super().__init__()
        self.model, self._size = model, size
        self._recorded: nn.Module | None = None

    def forward(self, images: Tensor) -> Tensor:
        """The logits of ``images``."""
        through = self.model
        if len(images) == self._size:
            if self._recorded is None:
                self._recorded = self._record(images)
            through = self._recorded
        logits: Tensor = through(images)
        return logits

    def _record(self, images: Tensor) -> nn.Module:
        # That takes a few passes, of which neither dropout nor running statistics may know.
        before = [buffer.clone() for buffer in self.model.buffers()]
        # They go through a stream of their own, of which torch warns; so it does of the first use
        # of cuBLAS, which is in a thread without a CUDA context and gives it one.
        set_warn_on_accumulate_grad_stream_mismatch(False)
        with random.fork_rng(devices=[images.get_device()]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Attempting to run cuBLAS")
            # In a copy, of which this replaces the method `forward`; its parameters are the same.
            recorded = cuda.make_graphed_callables(copy.copy(self.model), (images.clone(),))
        for buffer, value in zip(self.model.buffers(), before, strict=True):
            buffer.copy_(value)
        assert isinstance(recorded, nn.Module)
        return recorded
