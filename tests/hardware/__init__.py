"""Stand-ins for the hardware of a node, rendered from the machines of the model."""
