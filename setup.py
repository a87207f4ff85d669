"""What pyproject.toml cannot say: the folder `assets` of a checkout is `dmq/assets` in the wheel, without a copy."""

from setuptools import find_packages, setup


setup(
    packages=[*find_packages(include=["dmq", "dmq.*", "pages", "pages.*"]), "dmq.assets"],
    package_dir={"dmq.assets": "assets"},
    package_data={"dmq.assets": ["**"]},
    exclude_package_data={"dmq.assets": ["screenshots/*"]},  # of the README
)
