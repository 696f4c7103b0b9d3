"""Counts the words of a text as the function `wordcount` does. Prints {"words", "seconds"}."""

import json
import sys
import time

from pyspark.sql import SparkSession
from pyspark.sql import functions as f

path = sys.argv[1]
spark = (
    SparkSession.builder.master("local[2]")
    .config("spark.ui.enabled", "false")
    .config("spark.driver.memory", "4g")
    .config("spark.sql.shuffle.partitions", "2")
    .getOrCreate()
)
spark.sparkContext.setLogLevel("ERROR")


def count():
    words = spark.read.text(path).select(
        f.explode(f.expr(r"regexp_extract_all(value, '[A-Za-z0-9_]+', 0)")).alias("word")
    )
    return words.groupBy("word").count().orderBy(f.desc("count"), "word").collect()


started = time.monotonic()
rows = count()
seconds = time.monotonic() - started
print(json.dumps({"words": sum(row["count"] for row in rows), "seconds": seconds}))
