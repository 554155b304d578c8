"""One private Open vSwitch for all tests of this directory; each test has a bridge of its own on it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.drivers.ovs.things import FakeGround, Ground, RealGround

from hitless.lab.ovs import PrivateSwitch


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """Short, for paths of sockets have at most 107 letters."""
    directory = Path(tempfile.mkdtemp(prefix="ht-"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def private() -> Iterator[PrivateSwitch]:
    directory = Path(tempfile.mkdtemp(prefix="ht-"))
    with PrivateSwitch(directory) as switch:
        yield switch
    shutil.rmtree(directory)


@pytest.fixture
def real(private: PrivateSwitch) -> Iterator[RealGround]:
    private.add_bridge("br0")
    try:
        yield RealGround(private)
    finally:
        private.remove_bridge("br0")


@pytest.fixture(params=["fake", "real"])
def ground(request: pytest.FixtureRequest) -> Ground:
    if request.param == "fake":
        return FakeGround()
    found: RealGround = request.getfixturevalue("real")
    return found
