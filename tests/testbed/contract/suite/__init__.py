"""The suite: test functions that take `here`, a namespace in either server. Imported by the modules above."""
