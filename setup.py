"""What pyproject.toml cannot say: the folder `assets` of a checkout is `dmq/assets` in the
wheel, without a copy.
"""

import shutil

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py


class BuildAnew(build_py):
    """Begin with an empty folder: what an earlier build left there would be packed, though it
    ships no more.
    """

    def run(self):
        if not self.editable_mode:
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


setup(
    cmdclass={"build_py": BuildAnew},
    packages=[*find_packages(include=["dmq", "dmq.*", "pages", "pages.*"]), "dmq.assets"],
    package_dir={"dmq.assets": "assets"},
    package_data={"dmq.assets": ["**"]},
    exclude_package_data={"dmq.assets": ["screenshots/*"]},  # of the README
)
