#!/usr/bin/env bash
# build.sh OUT.wasm, with WIT at wasi:http 0.3. It needs componentize-py (PyPI).
set -euo pipefail
source "$(dirname "$0")/../wit.sh"
# The copy keeps __pycache__ out of the source folder.
mkdir "$work/app" && cp "$here/app.py" "$work/app"
componentize-py -d "$work/wit" -w app componentize -p "$work/app" -o "$out" app
