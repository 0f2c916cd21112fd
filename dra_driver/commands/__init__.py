"""Commands of the driver, one file each."""
