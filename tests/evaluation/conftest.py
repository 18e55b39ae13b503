"""Scores are tested with linear probes as users get them."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def as_users_get_them(fitted_probes: None) -> None:
    """Every module of this folder."""
