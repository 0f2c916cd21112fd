"""``kubectl muster``: what the scheduler knows and decided, for people at a terminal and for programs.

reach   -- asks the scheduler, through the API server or directly
records -- the same answers, shorter, from GangPlacements and Events, where the scheduler can't be reached
tables  -- answers as tables; views -- answers as text around them
cli     -- the command
"""
