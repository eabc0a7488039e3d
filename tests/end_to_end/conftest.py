import pytest
from deployment import Site, make_site


@pytest.fixture(scope="session")
def finished_site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The deployment on which the whole graph runs once, with two updates of each model."""
    return make_site(tmp_path_factory.mktemp("graph"), updates=2)
