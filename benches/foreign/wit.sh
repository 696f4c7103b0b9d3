# Each build.sh sources this file. It lays out the folder $work/wit: world.wit.in as world.wit, and the packages of WIT as deps.
# WIT is a folder that holds the packages of one release of wasi:http (http.wit, io.wit, clocks.wit and so on, or one folder for each).
# The crate wasmtime-wasi-http has two such folders: wit/deps (0.2) and src/p3/wit/deps (0.3).
here=$(cd "$(dirname "$0")" && pwd)
out=$(realpath -m "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/wit"
cp -rL "${WIT:?names no folder of WIT packages}" "$work/wit/deps"
# The release that WIT holds, such as 0.2.12, takes the place of VERSION in a source.
version=$(grep -rhoE '^package wasi:http@[0-9.]+' "$work/wit/deps" | head -1 | cut -d@ -f2)
sed "s/@VERSION/@$version/" "$here/world.wit.in" > "$work/wit/world.wit"
