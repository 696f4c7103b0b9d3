"""Counts the words of a text as the function `wordcount` does. Prints {"words", "seconds"}."""

import json
import sys
import time

import duckdb

path = sys.argv[1]
db = duckdb.connect()
db.execute("SET threads = 2")
started = time.monotonic()
rows = db.execute(
    """
    SELECT word, count(*) AS n
    FROM (
        SELECT unnest(regexp_extract_all(line, '[A-Za-z0-9_]+')) AS word
        FROM read_csv(?, columns = {'line': 'VARCHAR'}, delim = chr(1), quote = '', escape = '',
                      header = false, auto_detect = false, max_line_size = 67108864,
                      strict_mode = false, ignore_errors = false)
    )
    GROUP BY word ORDER BY n DESC, word
    """,
    [path],
).fetchall()
seconds = time.monotonic() - started
print(json.dumps({"words": sum(n for _, n in rows), "seconds": seconds}))
