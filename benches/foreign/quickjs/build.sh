#!/usr/bin/env bash
# build.sh OUT.wasm, with WIT at wasi:http 0.3. It needs jco (npm @bytecodealliance/jco).
set -euo pipefail
source "$(dirname "$0")/../wit.sh"
sed "s/@VERSION/@$version/" "$here/app.js" > "$work/app.js"
jco componentize "$work/app.js" --backend qjs --wit "$work/wit" --world-name app --out "$out"
