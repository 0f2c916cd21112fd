"""Workloads as columns: published traces, our own schema, and a seeded generator.

job         -- a trace: job shapes and one row of columns per job
table       -- strict reading of CSV and Parquet, errors with file, line and field
openb, elasticflow, gavel, swf, azure, mooncake -- one reader per published format
pools       -- request arrivals to replica jobs of inference pools
schema      -- our own columns, read and written
synthetic   -- seeded generator with gangs, tenants, priorities and pools
load        -- picks the reader by content
summary     -- what a trace holds, in figures
"""
