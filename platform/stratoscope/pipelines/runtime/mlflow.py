"""Checks of an MLflow tracking URI, without importing MLflow."""

import importlib.util
from importlib.metadata import entry_points
from urllib.parse import urlsplit

from stratoscope.errors import InputError

SCHEMES = frozenset(
    {"", "file", "http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks", "databricks-uc", "uc"}
)
"""Schemes that MLflow itself supports. The scheme of a database may include a driver, as in mysql+pymysql."""
PLUGINS = "mlflow.tracking_store"
"""Group of the entry points by which packages add schemes."""


def check_mlflow(field: str, uri: str | None) -> None:
    """Check that MLflow is installed and knows the scheme of a tracking URI, if one is given.

    Args:
        field: name of the option, for messages.
        uri: address of a server, a folder or a database.

    Raises:
        InputError: MLflow is not installed or would reject the URI.
    """
    if uri is None:
        return
    if importlib.util.find_spec("mlflow") is None:
        raise InputError(f"{field} needs the package mlflow: pip install 'stratoscope[mlflow]'")
    scheme = urlsplit(uri).scheme
    known = SCHEMES | {plugin.name for plugin in entry_points(group=PLUGINS)}
    if scheme.partition("+")[0] not in known and uri not in known:
        raise InputError(f"{field}: MLflow knows no scheme {scheme!r}; give a folder, http(s)://HOST or sqlite:///FILE")
