"""Reads tables and their shards with Python's csv and, if it is there, DuckDB.

The folder holds one folder a table: whole.csv, and shard-N.csv with the header in front of each. Of a folder that ends in
"-cut" the shards have the records of the whole in their order, of one that ends in "-sorted" in another.
Prints {"tables", "duckdb", "differ"}: how many were read, how many DuckDB took, and those whose records differ.
"""

import csv
import json
import pathlib
import sys

try:
    import duckdb
except ImportError:
    duckdb = None

csv.field_size_limit(1 << 28)


def by_python(path, delimiter):
    with open(path, encoding="utf-8-sig", newline="") as table:
        records = list(csv.reader(table, delimiter=delimiter, strict=True))
    # An empty line is no record.
    return [record for record in records if record][1:]


def by_duckdb(db, path, delimiter):
    rows = db.execute(
        """
        SELECT * FROM read_csv(?, delim = ?, quote = '"', escape = '"', header = true, auto_detect = false,
                               columns = {'text': 'VARCHAR', 'id': 'VARCHAR'}, max_line_size = 67108864)
        """,
        [str(path), delimiter],
    ).fetchall()
    return [["" if field is None else field for field in row] for row in rows]


def records(read, folder):
    whole = read(folder / "whole.csv")
    shards = [record for shard in sorted(folder.glob("shard-*.csv")) for record in read(shard)]
    return (sorted(whole), sorted(shards)) if folder.name.endswith("-sorted") else (whole, shards)


def main(root):
    told = {"tables": 0, "duckdb": 0, "differ": []}
    db = duckdb.connect() if duckdb else None
    for folder in sorted(pathlib.Path(root).iterdir()):
        header = (folder / "whole.csv").read_text(encoding="utf-8-sig")
        delimiter = header[len("text")]
        whole, shards = records(lambda path: by_python(path, delimiter), folder)
        told["tables"] += 1
        if whole != shards:
            told["differ"].append(f"{folder.name}, Python")
        if db is None:
            continue
        try:
            whole, shards = records(lambda path: by_duckdb(db, path, delimiter), folder)
        except duckdb.Error:
            continue
        told["duckdb"] += 1
        if whole != shards:
            told["differ"].append(f"{folder.name}, DuckDB")
    print(json.dumps(told))


main(sys.argv[1])
