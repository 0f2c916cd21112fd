"""What a replay looks like to people and to programs.

units         -- times, shares and counts as short words
sheet         -- a table as a value
whole         -- files that appear whole or not at all
results       -- folders that appear whole or not at all
provenance    -- which trace, fleet, policy, code and seeds made a result
figures       -- an outcome reduced to figures and curves
runsheets, comparesheets, fleetsheets, tracesheets -- what is shown as tables
words         -- what each reason for waiting means
tables        -- sheets on a terminal
plots         -- matplotlib curves as deterministic SVG
fleetmap      -- racks, nodes and GPUs coloured by state
story         -- which tables and drawings make a report, in which order
page          -- one self-contained HTML file
series        -- jobs and samples as CSV and Parquet
"""
