/* How GPUs are joined: PCIe, NVLink, fabric. */
int nvmlDeviceGetTopologyCommonAncestor(void *a, void *b, u32 *out) {
  DEVICE(a);
  int m = gpu_of(b);
  if (m < 0 || m >= (int)S->gpus) return INVALID;
  *out = g->ancestor[m];
  return OK;
}
int nvmlDeviceGetP2PStatus(void *a, void *b, u32 index, u32 *out) {
  DEVICE(a);
  int m = gpu_of(b);
  if (m < 0 || m >= (int)S->gpus) return INVALID;
  *out = index == 2 ? g->p2p[m] : 0;
  return OK;
}
#define LINK if (!g->links) { return UNSUPPORTED; } if (link >= g->links) return INVALID
int nvmlDeviceGetNvLinkState(void *h, u32 link, u32 *out) { DEVICE(h); LINK; *out = g->link[link].active; return OK; }
int nvmlDeviceGetNvLinkVersion(void *h, u32 link, u32 *out) { DEVICE(h); LINK; *out = g->link[link].version; return OK; }
int nvmlDeviceGetNvLinkCapability(void *h, u32 link, u32 capability, u32 *out) {
  DEVICE(h); LINK; *out = capability < 6; return OK;
}
int nvmlDeviceGetNvLinkRemoteDeviceType(void *h, u32 link, u32 *out) {
  DEVICE(h); LINK; *out = g->link[link].remote_type; return OK;
}
int nvmlDeviceGetNvLinkRemotePciInfo_v2(void *h, u32 link, Pci *p) {
  DEVICE(h); LINK;
  Link_t *l = &g->link[link];
  return pci(p, l->domain, l->bus, l->device, 0);
}
typedef struct { u32 version; unsigned char uuid[16]; u32 status, clique, state, mask; unsigned char health; } Fabric;
int nvmlDeviceGetGpuFabricInfoV(void *h, Fabric *f) {
  DEVICE(h);
  if (!g->fabric_state) return UNSUPPORTED;
  memcpy(f->uuid, g->fabric, 16);
  f->status = g->fabric_status; f->clique = g->clique; f->state = g->fabric_state; f->mask = g->fabric_mask;
  if (f->version >> 24 >= 3) f->health = g->fabric_health;
  return OK;
}
typedef struct { u32 id, scope; long long at, latency; u32 type, result; union { u64 whole; u32 word; } value; } Field;
int nvmlDeviceGetFieldValues(void *h, int count, Field *f) {
  DEVICE(h);
  for (int i = 0; i < count; i++) {
    f[i].type = 1; f[i].result = OK; f[i].value.whole = 0; f[i].at = 0;
    int linked = f[i].scope < g->links;
    if (f[i].id == 230) f[i].value.word = g->recovery;
    else if (f[i].id == 82) f[i].value.word = g->memory_celsius;
    else if (f[i].id == 197) f[i].value.whole = g->pcie_tx_bytes;
    else if (f[i].id == 198) f[i].value.whole = g->pcie_rx_bytes;
    else if ((f[i].id == 138 || f[i].id == 139) && f[i].scope == -1u && g->links) {
      f[i].value.whole = f[i].id == 138 ? g->nvlink_tx_kib : g->nvlink_rx_kib;
      f[i].at = g->nvlink_at_us;
    }
    else if (f[i].id == 164 && linked) f[i].value.word = g->link[f[i].scope].mbps;
    else if (f[i].id == 165 && linked) f[i].value.word = g->link[f[i].scope].active;
    else if (f[i].id == 166 && linked) f[i].value.word = g->link[f[i].scope].version;
    else f[i].result = UNSUPPORTED;
  }
  return OK;
}
