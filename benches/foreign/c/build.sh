#!/usr/bin/env bash
# build.sh OUT.wasm, with WIT at wasi:http 0.2. It needs clang, lld, wasi-libc and libclang-rt-14-dev-wasm32 (Debian),
# and wit-bindgen and wasm-tools (crates wit-bindgen-cli and wasm-tools).
set -euo pipefail
source "$(dirname "$0")/../wit.sh"
wit-bindgen c "$work/wit" --world app --out-dir "$work" \
  --rename "wasi:http/types@$version=http" --rename "wasi:io/streams@$version=io" --rename "wasi:http/incoming-handler@$version=handler"
# The object file that wit-bindgen makes tells "component new" what the world is.
# The program uses only functions of libc that call no WASI function, so "component new" needs no adapter (printf would need one).
clang --target=wasm32-wasi -mexec-model=reactor -O2 -Wall -Wextra -Wl,--strip-debug -I "$work" -o "$work/core.wasm" \
  "$here/app.c" "$work/app.c" "$work/app_component_type.o"
wasm-tools component new "$work/core.wasm" -o "$out"
