"""How Muster speaks with the Kubernetes API server; both services use it, the core does not know it.

client    one connection pool: get, list in pages, create, patch, apply, delete; bodies stay bytes where the caller wants bytes
errors    what the server answers when it does not do as asked
paths     where collections and objects are
watch     a list and the changes after it, for as long as the caller listens
"""
