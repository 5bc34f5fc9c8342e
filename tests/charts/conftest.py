"""Runs a test once for each set of values that a chart renders, when it asks for `chart` and `values`."""

import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).parent))

import agent_cases
import control_plane_cases
import pytest
from rendering import objects

CASES = {"control-plane": control_plane_cases, "agent": agent_cases}


def pytest_generate_tests(metafunc):
    if "found" in metafunc.fixturenames or "values" in metafunc.fixturenames:
        sets = [(chart, name, values) for chart, cases in CASES.items() for name, values in cases.GOOD.items()]
        ids = [f"{chart}: {name}" for chart, name, _ in sets]
        metafunc.parametrize(("chart", "values"), [(chart, values) for chart, _, values in sets], ids=ids)
    elif "refused" in metafunc.fixturenames:
        sets = [(chart, name, case) for chart, cases in CASES.items() for name, case in cases.REFUSED.items()]
        ids = [f"{chart}: {name}" for chart, name, _ in sets]
        metafunc.parametrize(("chart", "refused"), [(chart, case) for chart, _, case in sets], ids=ids)


@pytest.fixture
def found(chart, values):
    """All objects of a set of values."""
    return objects(chart, values)
