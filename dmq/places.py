"""Where what ships with dmq lies: models, recipes, prompts, runs, and the scripts and styles of the
app.

In a wheel that is the folder `dmq/assets`, in a checkout `assets` beside the package. Nothing is
ever written there by what is installed: runs and learned things go to the run folder."""

from importlib import resources
from pathlib import Path


def find_assets() -> Path:
    """The folder of all that ships.

    It may be missing, as in a package whose assets were left out on purpose.
    """
    package = Path(
        str(resources.files(__package__))
    )  # models are read by path, so no loader from a zip will do
    inside = package / "assets"
    return inside if inside.is_dir() else package.parent / "assets"


ASSETS = find_assets()
