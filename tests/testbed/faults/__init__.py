"""Faults on purpose, between a program and the API server and in the program itself.

rules      what to do to which requests
proxy      a TLS proxy that does it, and remembers what it saw
processes  SIGKILL and SIGSTOP at a log line, at an API call, at a named point of a program
"""
