"""What the hardware of a node is and how it fares, behind one narrow interface."""
