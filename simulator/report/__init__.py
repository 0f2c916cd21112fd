"""What a replay looks like to people and to programs.

units       -- times, shares and counts as short words
whole       -- files that appear whole or not at all
provenance  -- which trace, fleet, policy, code and seeds made a result
figures     -- an outcome reduced to the tables and curves that every output shows
tables      -- rich tables for a terminal
plots       -- matplotlib curves as deterministic SVG
fleetmap    -- racks, nodes and GPUs coloured by state
page        -- one self-contained HTML file
series      -- CSV and Parquet
"""
