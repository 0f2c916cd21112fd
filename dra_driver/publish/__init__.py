"""Publishing the devices of the node as ResourceSlices."""
