"""Protocol definitions of the kubelet, with the Python code generated from them (see ``generate.py``)."""
