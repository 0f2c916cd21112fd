"""Built-in fleets, as documents: what people can print, change and load again."""

DEMO = """\
apiVersion: muster.dev/v1alpha1
kind: Fleet
metadata:
  name: demo
spec:
  levels: [block, rack]
  domains:
    - name: training
      level: block
      domains:
        - name: rack
          level: rack
          count: 4
          nodes: [{machine: hgx-h100, count: 4}]
        - name: nvl72
          level: rack
          nodes: [{machine: gb200-nvl72, count: 18}]
    - name: inference
      level: block
      domains:
        - name: rack
          level: rack
          count: 2
          nodes:
            - {machine: a100-pcie-pairs, count: 4}
            - {machine: l40s-8, count: 2}
        - name: mig
          level: rack
          nodes: [{machine: dgx-a100, count: 2, migGpus: [0, 1, 2, 3]}]
"""
"""48 nodes, 280 GPUs: HGX H100, one GB200 NVL72 rack, PCIe pairs, L40S, and DGX A100 with half its GPUs in MIG mode."""

LARGE = """\
apiVersion: muster.dev/v1alpha1
kind: Fleet
metadata:
  name: 5000x8
spec:
  levels: [block, rack]
  domains:
    - name: block
      level: block
      count: 19
      domains:
        - name: rack
          level: rack
          count: 8
          nodes: [{machine: hgx-h100, count: 32}]
    - name: last
      level: block
      domains:
        - name: rack
          level: rack
          count: 4
          nodes: [{machine: hgx-h100, count: 32}]
        - name: short
          level: rack
          nodes: [{machine: hgx-h100, count: 8}]
"""
"""5,000 HGX H100 nodes: 19 blocks of 8 racks of 32, and a last block of four racks and a quarter."""

SMALL = """\
apiVersion: muster.dev/v1alpha1
kind: Fleet
metadata:
  name: 80x8
spec:
  levels: [block, rack]
  domains:
    - name: block
      level: block
      count: 5
      domains:
        - name: rack
          level: rack
          count: 4
          nodes: [{machine: hgx-h100, count: 4}]
"""
"""80 HGX H100 nodes in racks of four: about the load of ElasticFlow's cluster 04 at 85 %."""

PRESETS = {"demo": DEMO, "5000x8": LARGE, "80x8": SMALL}
"""Documents by name."""
