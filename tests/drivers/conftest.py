"""A network namespace per kernel test, and values to build SAs and policies from."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hitless.drivers.fake.kernel import FakeKernel
from hitless.drivers.xfrm.driver import XfrmDriver

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@pytest.fixture
def namespace() -> Iterator[None]:
    """A new network namespace for the test; the one before is restored after it."""
    before = os.open(Path("/proc/thread-self/ns/net"), os.O_RDONLY | os.O_CLOEXEC)
    try:
        _checked(_libc.unshare(_CLONE_NEWNET))
        yield
        _checked(_libc.setns(before, _CLONE_NEWNET))
    finally:
        os.close(before)


@pytest.fixture(params=["fake", pytest.param("kernel", marks=pytest.mark.kernel)])
def dataplane(request: pytest.FixtureRequest) -> Iterator[FakeKernel | XfrmDriver]:
    """The executable kernel and the real one: the same rules hold for both."""
    if request.param == "fake":
        yield FakeKernel()
        return
    request.getfixturevalue("namespace")
    with XfrmDriver() as driver:
        yield driver
