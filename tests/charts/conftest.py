"""Gives the tests their sets of values."""

import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).parent))

import agent_cases
import control_plane_cases
import pytest
from rendering import objects

CASES = {"control-plane": control_plane_cases, "agent": agent_cases}


def pytest_configure(config):
    config.addinivalue_line("markers", "of(chart): only for the values of this chart")


def pytest_generate_tests(metafunc):
    """Runs a test that asks for `values` (or `found`), or for `refused`, once for each set of them."""
    mark = metafunc.definition.get_closest_marker("of")
    charts = mark.args if mark else CASES
    if {"found", "values"} & set(metafunc.fixturenames):
        parameter, table = "values", "GOOD"
    elif "refused" in metafunc.fixturenames:
        parameter, table = "refused", "REFUSED"
    else:
        return
    sets = [(chart, name, case) for chart in charts for name, case in getattr(CASES[chart], table).items()]
    ids = [f"{chart}: {name}" for chart, name, _ in sets]
    metafunc.parametrize(("chart", parameter), [(chart, case) for chart, _, case in sets], ids=ids)


@pytest.fixture
def found(chart, values):
    """All objects of a set of values."""
    return objects(chart, values)
