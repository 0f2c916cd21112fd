"""The edge towards the API server: what the cluster says becomes values, what the machine decides becomes writes."""
