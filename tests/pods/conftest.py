"""The images' root filesystems, and one Postrider in pods for all tests: they are its story, in the order of the files."""

import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "charts")]

import images
import pytest
from install import Platform


@pytest.fixture(scope="session")
def roots(tmp_path_factory):
    """The root filesystem of each image."""
    folder = tmp_path_factory.mktemp("images")
    programs = images.strip_programs(folder / "programs")
    return {image: images.lay(image, programs, folder / image) for image in images.IMAGES}


@pytest.fixture(scope="session")
def platform(tmp_path_factory, roots):
    """The charts, installed."""
    platform = Platform(tmp_path_factory.mktemp("pods"), roots)
    try:
        platform.install_control_plane()
        platform.install_agents()
        platform.subscribe()
        yield platform
    finally:
        platform.stop()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    """With a failure, what the pods have said at last."""
    report = (yield).get_result()
    platform = item.funcargs.get("platform")
    if report.failed and platform is not None:
        for pod in platform.cluster.pods:
            report.sections.append((pod.name, "\n".join(pod.log.splitlines()[-30:])))
