"""Recognise gangs: pods and the objects that made them become workloads. Pure; `recognize.recognize` is the way in."""
