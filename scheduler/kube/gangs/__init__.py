"""Recognise gangs: pods and the objects that made them become workloads. Pure; `recognize.all_of` is the way in."""
