"""How many threads small products and sums take, and fits side by side."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

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


def together(jobs: Sequence[Callable[[], Any]], threads: int) -> list[Any]:
    """What each job returns, as many of them at a time as there are threads, which they share.

    A fit of a few thousand rows gains little from a second thread, two fits side by side gain a second core. The first error
    ends what has not begun.
    """
    side = min(threads, len(jobs))
    if side < 2:
        return [job() for job in jobs]
    before = torch.get_num_threads()
    with ThreadPoolExecutor(side, initializer=_limited, initargs=(threads // side,)) as pool:
        waiting = [pool.submit(job) for job in jobs]
        try:
            return [job.result() for job in waiting]
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(before)  # for threads to come


def _limited(threads: int) -> None:
    """This thread's part, as long as it lives."""
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(threads)
    threadpool_limits(threads, "openmp")
