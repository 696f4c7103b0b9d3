#!/usr/bin/env bash
# build.sh OUT.wasm, with WIT at wasi:http 0.2. It needs componentize-js (npm @bytecodealliance/componentize-js).
set -euo pipefail
source "$(dirname "$0")/../wit.sh"
sed "s/@VERSION/@$version/" "$here/app.js" > "$work/app.js"
componentize-js "$work/app.js" --wit "$work/wit" --world-name app --out "$out"
