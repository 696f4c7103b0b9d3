#!/usr/bin/env bash
# Makes the data folder of a build, for `tests/src/upgrade.rs`: make.sh NAME NEARFIELD COMPONENTS
# Each release gets one. A folder that is there is never made again: it is what that build wrote.
set -euo pipefail
name=$1 nearfield=$(realpath "$2") components=$(realpath "$3") out=$(realpath "$(dirname "$0")")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export NEARFIELD_DATA="$work/data"
unset NEARFIELD_URL NEARFIELD_TOKEN

"$nearfield" up --gpu off --listen 127.0.0.1:0 --admin 127.0.0.1:0 --peers 127.0.0.1:0 --json >up.json 2>up.log &
node=$!
until [ -s up.json ]; do sleep 0.1; done
NEARFIELD_URL=$(python3 -c 'import json; print(json.loads(open("up.json").readline())["admin_url"])')
export NEARFIELD_URL

mkdir -p in/folder/sub f
python3 - <<'P'
rows = "".join(f"{i:05},name {i % 97},{i * 7 % 1000}\n" for i in range(4000))
open("in/table.csv", "w").write("id,name,amount\n" + rows)
lines = [f"line {i} of the golden folder\n" for i in range(3000)]
open("in/lines.txt", "w").writelines(lines)
open("in/first.txt", "w").writelines(lines[:2000])
open("in/more.txt", "w").writelines(lines[2000:])
open("in/folder/a.txt", "w").write("a file\n")
open("in/folder/sub/b.bin", "wb").write(bytes(range(256)) * 8)
P
"$nearfield" put in/table.csv --name table --key id --json >/dev/null
"$nearfield" put in/lines.txt --name lines --split lines --json >/dev/null
"$nearfield" put in/first.txt --name grown --split lines --json >/dev/null
"$nearfield" put in/more.txt --append --name grown --json >/dev/null
"$nearfield" put in/folder --name folder --json >/dev/null
cat >f/nearfield.toml <<T
[function.hello]
build = { component = "$components/plain_p2.wasm" }
limits = { timeout = "5s" }

[function.wordcount]
build = { component = "$components/wordcount.wasm" }
T
"$nearfield" deploy f --json >/dev/null
"$nearfield" deploy f --json >/dev/null
"$nearfield" run wordcount --over lines --args '{}' --json >job.json
"$nearfield" token create --function hello --json >token.json
"$nearfield" ls datasets --json >datasets.json
kill -TERM $node
wait $node

python3 - "$name" >"$out/$name.json" <<'P'
import json, sys
load = lambda path: json.load(open(path))
told = {"build": sys.argv[1], "token": load("token.json")["token"], "job": load("job.json"), "datasets": load("datasets.json")}
print(json.dumps(told, indent=1))
P
rm -rf data/code
tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -C data -c . | zstd -19 -q -f -o "$out/$name.tar.zst"
ls -la "$out/$name".*
