"""The fixture of both images, imported by `tests/conftest.py`: built once in a session."""

import pytest

from tests.cluster.fixtures import required_or_skipped
from tests.images.base import BaseUnavailable
from tests.images.images import Images, build_images, images_obstacle


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    """The operator's and the trainer's image of this checkout, in archives."""
    if reason := images_obstacle():
        required_or_skipped(reason)
    try:
        return build_images(tmp_path_factory.mktemp("images"))
    except BaseUnavailable as error:
        required_or_skipped(str(error))
