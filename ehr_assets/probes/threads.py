"""How many threads linear algebra may use in this room.

BLAS threads wait for one another in a loop. On a machine busy with other work (training beside probing, a
container with a CPU quota) that made a fit of milliseconds take seconds: 200 times slower, measured. Small
problems gain nothing from threads, so they get one; the rule looks at size only, so results do not depend on
the machine's mood.
"""

from collections.abc import Iterator
from contextlib import contextmanager

SMALL_CELLS = 20_000_000
"""Matrices up to this many cells (160 MB) are worked on by one thread."""


@contextmanager
def blas_threads_for(cells: int) -> Iterator[None]:
    """One BLAS thread inside the block if the matrix is small. Enter it after importing what uses BLAS."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1 if cells <= SMALL_CELLS else None):
        yield
