"""What the driver tells Prometheus: use and health of its devices with who uses them, and its own work."""
