"""A folder of tiny pipelines that all tests of a session share."""

import os

import pytest


@pytest.fixture(scope="session")
def shared_tiny_pipelines(tmp_path_factory):
    """The folder; `tiny_pipelines.saved(name, folder)` makes what is not there yet."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    (shared / "tiny_pipelines").mkdir(exist_ok=True)
    return shared / "tiny_pipelines"
