"""Fleets as fabrics: from YAML documents, published node lists, dumps of real clusters, and presets.

spec        -- the versioned Fleet document
build       -- document to fabric
openb       -- node lists of the openb trace
dump        -- ``kubectl get nodes,resourceslices -o json``
presets     -- built-in fleets by name
load        -- picks the reader by content
"""
