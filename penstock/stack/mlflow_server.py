"""MLflow's server in one process.

`mlflow server` imports everything, lays the database out, and then starts this application in a
second process that imports everything again. Settings come from the environment under the names
that `mlflow server` gives its second process, and must be there before the import.
"""

import os
import sys

import uvicorn
from mlflow.server.fastapi_app import app
from mlflow.server.handlers import initialize_backend_stores


def main(host: str, port: int) -> None:
    """Lay the database out, then serve until SIGTERM."""
    # Before the first request: two that came together would lay it out twice, and break it.
    initialize_backend_stores(
        os.environ["_MLFLOW_SERVER_FILE_STORE"],
        default_artifact_root=os.environ["_MLFLOW_SERVER_ARTIFACT_ROOT"],
    )
    uvicorn.run(app, host=host, port=port, access_log=False, log_level="warning")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
