"""Workloads as columns: published traces, our own schema, and a seeded generator.

job         -- a trace: job shapes and one row of columns per job
content     -- bytes and text of a file, of bounded size
table       -- strict reading of CSV and Parquet, errors with file, line and field
openb, elasticflow, gavel, swf, azure, mooncake -- one reader per published format
pods        -- a number of GPUs as pods
pools       -- request arrivals to replica jobs of inference pools
schema      -- our own columns, read and written
workload    -- the versioned Workload document
synthetic   -- seeded generator with gangs, tenants, priorities and pools
samples     -- built-in workloads
load        -- picks the reader by content
summary     -- what a trace holds, in figures
"""
