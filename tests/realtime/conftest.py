from tests.support.serving import serve  # noqa: F401 - a fixture
