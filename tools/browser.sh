#!/usr/bin/env bash
# Make sure there are a Chromium and a font to draw with: the system's if there, else apt-get, else Playwright's own.
set -euo pipefail
cd "$(dirname "$0")/.."

apt() {
    command -v apt-get >/dev/null || return 1
    local sudo=""
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null && sudo -n true 2>/dev/null || return 1
        sudo="sudo"
    fi
    $sudo apt-get update -qq && DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq "$@" >/dev/null
}

if ! command -v chromium >/dev/null && ! command -v chromium-browser >/dev/null && ! command -v google-chrome >/dev/null \
    && [ -z "$(ls -d "${PLAYWRIGHT_BROWSERS_PATH:-$HOME/.cache/ms-playwright}"/chromium-* 2>/dev/null)" ]; then
    echo "Chromium is missing: installing it for the browser tests"
    apt chromium || .venv/bin/python -m playwright install --with-deps chromium \
        || { echo "No Chromium could be installed; install one by hand, the browser tests need it." >&2; exit 1; }
fi
if ! fc-list 2>/dev/null | grep -q .; then
    echo "No fonts are installed: installing DejaVu for the browser tests"
    apt fontconfig fonts-dejavu-core || { echo "No font could be installed; install fontconfig and a font." >&2; exit 1; }
fi
