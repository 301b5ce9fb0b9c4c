from __future__ import annotations

import pytest
from tiny_bridges import make_bridge


@pytest.fixture
def bridge():
    return make_bridge()
