import pytest
from deployment import FinishedSite, make_site, run_demo


@pytest.fixture(scope="session")
def finished_site(tmp_path_factory: pytest.TempPathFactory) -> FinishedSite:
    """The deployment on which the whole graph runs once, with two updates of each model."""
    site = make_site(tmp_path_factory.mktemp("graph"), updates=2)
    done = run_demo(site)
    assert done.returncode == 0, done.stdout + done.stderr
    return FinishedSite(site.directory, site.environment, done.stdout)
