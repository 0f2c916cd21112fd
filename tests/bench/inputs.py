"""Where the real traces are: ``--traces``, else ``$MUSTER_TRACES``, else a folder beside the checkout."""

import os
from pathlib import Path

from tests.bench import figure

BESIDE = Path(__file__).parents[3] / "shared" / "traces"


def traces(given: Path | None = None) -> Path:
    """Return the folder that holds ``openb/``, ``elasticflow/`` and so on.

    Raises
    ------
    Missing
        There is none.
    """
    folder = given or Path(os.environ.get("MUSTER_TRACES", BESIDE))
    if not (folder / "openb").is_dir():
        raise figure.Missing(f"no openb/ in {folder.name}/: give --traces or set MUSTER_TRACES")
    return folder
