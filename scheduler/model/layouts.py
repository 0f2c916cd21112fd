"""Where the devices of real machines sit: bus id, PCIe switch, host bridge and NUMA node, one line per device.

GPUs are written ``gpu BUS SWITCH ROOT NUMA``, NICs ``nic NAME GBPS BUS SWITCH ROOT NUMA``; ``-`` stands for no switch.
The names of switches are ours: they only say which devices share one, and ``a/b`` is a switch below switch ``a``.

References
----------
``nvidia-smi topo -m`` and ``lspci`` listings in public issue threads of NVIDIA/nccl and nccl-tests (DGX-1: #246 of nccl,
DGX-2: #78 of nccl-tests, DGX A100: #1505 of nccl), NVIDIA's DGX user guides for counts, the aws-ofi-nccl topology file for
p4d, Oracle and Azure documentation for GB200. Where a vendor leaves the layout to the server maker (four-GPU H100,
PCIe cards) a common one was taken.
"""

DGX_1V = """
gpu 0000:06:00.0 plx0 pci0000:00 0
gpu 0000:07:00.0 plx0 pci0000:00 0
gpu 0000:0a:00.0 plx1 pci0000:00 0
gpu 0000:0b:00.0 plx1 pci0000:00 0
gpu 0000:85:00.0 plx2 pci0000:80 1
gpu 0000:86:00.0 plx2 pci0000:80 1
gpu 0000:89:00.0 plx3 pci0000:80 1
gpu 0000:8a:00.0 plx3 pci0000:80 1
nic mlx5_0 100 0000:05:00.0 plx0 pci0000:00 0
nic mlx5_1 100 0000:0c:00.0 plx1 pci0000:00 0
nic mlx5_2 100 0000:84:00.0 plx2 pci0000:80 1
nic mlx5_3 100 0000:8b:00.0 plx3 pci0000:80 1
"""

DGX_1V_LINKS = (
    (0, 1, 1), (0, 2, 1), (0, 3, 2), (0, 4, 2), (1, 2, 2), (1, 3, 1), (1, 5, 2), (2, 3, 2),
    (2, 6, 1), (3, 7, 1), (4, 5, 1), (4, 6, 1), (4, 7, 2), (5, 6, 2), (5, 7, 1), (6, 7, 2),
)  # fmt: skip
"""Hybrid cube mesh: GPU, GPU, number of links; every GPU has six."""

DGX_2 = """
gpu 0000:34:00.0 a/0 pci0000:30 0
gpu 0000:36:00.0 a/0 pci0000:30 0
gpu 0000:39:00.0 a/1 pci0000:30 0
gpu 0000:3b:00.0 a/1 pci0000:30 0
gpu 0000:57:00.0 b/0 pci0000:53 0
gpu 0000:59:00.0 b/0 pci0000:53 0
gpu 0000:5c:00.0 b/1 pci0000:53 0
gpu 0000:5e:00.0 b/1 pci0000:53 0
gpu 0000:b7:00.0 c/0 pci0000:b3 1
gpu 0000:b9:00.0 c/0 pci0000:b3 1
gpu 0000:bc:00.0 c/1 pci0000:b3 1
gpu 0000:be:00.0 c/1 pci0000:b3 1
gpu 0000:e0:00.0 d/0 pci0000:dc 1
gpu 0000:e2:00.0 d/0 pci0000:dc 1
gpu 0000:e5:00.0 d/1 pci0000:dc 1
gpu 0000:e7:00.0 d/1 pci0000:dc 1
nic mlx5_0 100 0000:35:00.0 a/0 pci0000:30 0
nic mlx5_1 100 0000:3a:00.0 a/1 pci0000:30 0
nic mlx5_2 100 0000:58:00.0 b/0 pci0000:53 0
nic mlx5_3 100 0000:5d:00.0 b/1 pci0000:53 0
nic mlx5_6 100 0000:b8:00.0 c/0 pci0000:b3 1
nic mlx5_7 100 0000:bd:00.0 c/1 pci0000:b3 1
nic mlx5_8 100 0000:e1:00.0 d/0 pci0000:dc 1
nic mlx5_9 100 0000:e6:00.0 d/1 pci0000:dc 1
"""

DGX_A100 = """
gpu 0000:07:00.0 a/0 pci0000:00 3
gpu 0000:0f:00.0 a/1 pci0000:00 3
gpu 0000:47:00.0 b/0 pci0000:40 1
gpu 0000:4e:00.0 b/1 pci0000:40 1
gpu 0000:87:00.0 c/0 pci0000:80 7
gpu 0000:90:00.0 c/1 pci0000:80 7
gpu 0000:b7:00.0 d/0 pci0000:b0 5
gpu 0000:bd:00.0 d/1 pci0000:b0 5
nic mlx5_0 200 0000:0c:00.0 a/2 pci0000:00 3
nic mlx5_1 200 0000:12:00.0 a/3 pci0000:00 3
nic mlx5_2 200 0000:4b:00.0 b/2 pci0000:40 1
nic mlx5_3 200 0000:54:00.0 b/3 pci0000:40 1
nic mlx5_6 200 0000:8d:00.0 c/2 pci0000:80 7
nic mlx5_7 200 0000:94:00.0 c/3 pci0000:80 7
nic mlx5_8 200 0000:ba:00.0 d/2 pci0000:b0 5
nic mlx5_9 200 0000:cc:00.0 d/3 pci0000:b0 5
"""

HGX_8 = """
gpu 0000:1b:00.0 sw0 pci0000:15 0
gpu 0000:43:00.0 sw1 pci0000:3d 0
gpu 0000:52:00.0 sw2 pci0000:4c 0
gpu 0000:61:00.0 sw3 pci0000:5b 0
gpu 0000:9d:00.0 sw4 pci0000:97 1
gpu 0000:c3:00.0 sw5 pci0000:bd 1
gpu 0000:d1:00.0 sw6 pci0000:cb 1
gpu 0000:df:00.0 sw7 pci0000:d9 1
nic mlx5_0 400 0000:18:00.0 sw0 pci0000:15 0
nic mlx5_3 400 0000:40:00.0 sw1 pci0000:3d 0
nic mlx5_4 400 0000:4f:00.0 sw2 pci0000:4c 0
nic mlx5_5 400 0000:5e:00.0 sw3 pci0000:5b 0
nic mlx5_6 400 0000:9a:00.0 sw4 pci0000:97 1
nic mlx5_9 400 0000:c0:00.0 sw5 pci0000:bd 1
nic mlx5_10 400 0000:ce:00.0 sw6 pci0000:cb 1
nic mlx5_11 400 0000:dc:00.0 sw7 pci0000:d9 1
"""

HGX_H100_4 = """
gpu 0000:16:00.0 - pci0000:15 0
gpu 0000:38:00.0 - pci0000:37 1
gpu 0000:9a:00.0 - pci0000:99 2
gpu 0000:bb:00.0 - pci0000:ba 3
nic mlx5_0 400 0000:26:00.0 - pci0000:25 0
nic mlx5_1 400 0000:a8:00.0 - pci0000:a7 2
"""

PCIE_4 = """
gpu 0000:25:00.0 - pci0000:20 0
gpu 0000:5b:00.0 - pci0000:58 0
gpu 0000:a1:00.0 - pci0000:a0 1
gpu 0000:e1:00.0 - pci0000:e0 1
nic mlx5_0 200 0000:41:00.0 - pci0000:40 0
nic mlx5_1 200 0000:c1:00.0 - pci0000:c0 1
"""

L40S_8 = """
gpu 0000:0e:00.0 sw0 pci0000:0c 0
gpu 0000:0f:00.0 sw0 pci0000:0c 0
gpu 0000:1f:00.0 sw1 pci0000:1d 0
gpu 0000:20:00.0 sw1 pci0000:1d 0
gpu 0000:8e:00.0 sw2 pci0000:8c 1
gpu 0000:8f:00.0 sw2 pci0000:8c 1
gpu 0000:9f:00.0 sw3 pci0000:9d 1
gpu 0000:a0:00.0 sw3 pci0000:9d 1
nic mlx5_0 200 0000:2e:00.0 sw1 pci0000:1d 0
nic mlx5_1 200 0000:ae:00.0 sw3 pci0000:9d 1
"""

P4D = """
gpu 0000:10:1c.0 sw0 pci0000:10 0
gpu 0000:10:1d.0 sw0 pci0000:10 0
gpu 0000:20:1c.0 sw1 pci0000:20 0
gpu 0000:20:1d.0 sw1 pci0000:20 0
gpu 0000:90:1c.0 sw2 pci0000:90 1
gpu 0000:90:1d.0 sw2 pci0000:90 1
gpu 0000:a0:1c.0 sw3 pci0000:a0 1
gpu 0000:a0:1d.0 sw3 pci0000:a0 1
nic efa0 100 0000:10:1b.0 sw0 pci0000:10 0
nic efa1 100 0000:20:1b.0 sw1 pci0000:20 0
nic efa2 100 0000:90:1b.0 sw2 pci0000:90 1
nic efa3 100 0000:a0:1b.0 sw3 pci0000:a0 1
"""

GB200_TRAY = """
gpu 0008:06:00.0 - pci0008:00 0
gpu 0009:06:00.0 - pci0009:00 0
gpu 0018:06:00.0 - pci0018:00 1
gpu 0019:06:00.0 - pci0019:00 1
nic mlx5_0 400 0000:03:00.0 - pci0000:00 0
nic mlx5_1 400 0002:03:00.0 - pci0002:00 0
nic mlx5_2 400 0010:03:00.0 - pci0010:00 1
nic mlx5_3 400 0012:03:00.0 - pci0012:00 1
"""
