"""How many threads small products and sums take."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Inside, numpy and scipy multiply with one thread; torch keeps its own.

    Learners make many small products. For each of them the threads of numpy's, scipy's and torch's pools wake and wait by
    spinning, on the same cores: on two of them a fit took twice as long. Large products are torch's.
    """
    import scipy.linalg  # noqa: F401  its library is limited only if it is loaded
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, "blas"):
        yield


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Inside, torch takes one thread: for thousands of operations so small that waking a second costs more than it saves."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
