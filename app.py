"""The app as a Space starts it, and `python app.py` in a checkout; `dmq serve` starts the same."""

from pages.app import launch


if __name__ == "__main__":
    launch()
