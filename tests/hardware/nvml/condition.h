/* Events, health and use. */
int nvmlEventSetCreate(void **out) { SYSTEM; Set *s = calloc(1, sizeof *s); s->seen = S->events; *out = s; return OK; }
int nvmlEventSetFree(void *set) { SYSTEM; free(set); return OK; }
int nvmlDeviceGetSupportedEventTypes(void *h, u64 *out) { DEVICE(h); (void)g; *out = 0x1 | 0x2 | 0x8 | 0x100 | 0x8000; return OK; }
int nvmlDeviceRegisterEvents(void *h, u64 mask, void *set) {
  DEVICE(h);
  (void)g;
  if (mask & ~(u64)(0x1 | 0x2 | 0x8 | 0x100 | 0x8000)) return UNSUPPORTED;
  ((Set *)set)->mask[n] |= mask;
  return OK;
}
typedef struct { void *device; u64 type, data; u32 gi, ci; } News;
int nvmlEventSetWait_v2(void *set, News *out, u32 ms) {
  SYSTEM;
  Set *s = set;
  for (u32 waited = 0;; waited += 5) {
    while (s->seen < S->events) {
      Event_t *e = &S->event[s->seen++ % MAX_EVENTS];
      if (e->gpu >= MAX_GPUS || !(s->mask[e->gpu] & e->type)) continue;
      *out = (News){&devices[e->gpu], e->type, e->data, e->gi, e->ci};
      return OK;
    }
    if (waited >= ms) return TIMEOUT;
    nap(5);
  }
}
int nvmlDeviceGetEccMode(void *h, u32 *current, u32 *pending) { DEVICE(h); *current = *pending = g->ecc; return OK; }
int nvmlDeviceGetTotalEccErrors(void *h, u32 type, u32 counter, u64 *out) {
  DEVICE(h); (void)counter; if (!g->ecc) return UNSUPPORTED;
  *out = type ? g->ecc_uncorrected : g->ecc_corrected; return OK;
}
int nvmlDeviceGetRemappedRows(void *h, u32 *corrected, u32 *uncorrected, u32 *pending, u32 *failed) {
  DEVICE(h);
  if (g->architecture < 7) return UNSUPPORTED;
  *corrected = g->remap_corrected; *uncorrected = g->remap_uncorrected;
  *pending = g->remap_pending; *failed = g->remap_failed;
  return OK;
}
int nvmlDeviceGetRetiredPagesPendingStatus(void *h, u32 *out) {
  DEVICE(h); if (g->architecture >= 7) return UNSUPPORTED; *out = g->retired_pending; return OK;
}
int nvmlDeviceGetCurrentClocksEventReasons(void *h, u64 *out) { DEVICE(h); *out = g->clock_reasons; return OK; }
int nvmlDeviceGetCurrentClocksThrottleReasons(void *h, u64 *out) { DEVICE(h); *out = g->clock_reasons; return OK; }
int nvmlDeviceGetUtilizationRates(void *h, u32 *out) {
  DEVICE(h); if (g->mig_current) return UNSUPPORTED; out[0] = g->gpu_percent; out[1] = g->memory_percent; return OK;
}
int nvmlDeviceGetPowerUsage(void *h, u32 *out) { DEVICE(h); *out = g->power_mw; return OK; }
int nvmlDeviceGetTemperature(void *h, u32 sensor, u32 *out) { DEVICE(h); if (sensor) return INVALID; *out = g->celsius; return OK; }
int nvmlDeviceGetClockInfo(void *h, u32 kind, u32 *out) {
  DEVICE(h); if (kind != 1 && kind != 2) return INVALID; *out = kind == 1 ? g->sm_mhz : g->memory_mhz; return OK;
}
int nvmlDeviceGetTotalEnergyConsumption(void *h, u64 *out) { DEVICE(h); *out = g->energy_mj; return OK; }
int nvmlDeviceGetPcieReplayCounter(void *h, u32 *out) { DEVICE(h); *out = g->pcie_replays; return OK; }
int nvmlDeviceGetPcieThroughput(void *h, u32 counter, u32 *out) {
  DEVICE(h); if (counter > 1) return INVALID; *out = counter ? g->pcie_rx : g->pcie_tx; return OK;
}
int nvmlDeviceGetEncoderUtilization(void *h, u32 *out, u32 *period) {
  DEVICE(h); if (g->mig_current) return UNSUPPORTED; *out = g->encoder_percent; *period = 167000; return OK;
}
int nvmlDeviceGetDecoderUtilization(void *h, u32 *out, u32 *period) {
  DEVICE(h); if (g->mig_current) return UNSUPPORTED; *out = g->decoder_percent; *period = 167000; return OK;
}
typedef struct { u32 year; unsigned short month, day, hour, minute, second; unsigned char status; } Expiry;
typedef struct { u32 code, state; char info[128], product[128]; u32 enabled; Expiry expiry; } Licence;
typedef struct { int supported; u32 count; Licence feature[3]; } Licences;
int nvmlDeviceGetGridLicensableFeatures_v4(void *h, Licences *out) {
  DEVICE(h);
  memset(out, 0, sizeof *out);
  out->supported = g->licences > 0; out->count = g->licences;
  for (u32 i = 0; i < g->licences && i < 3; i++) out->feature[i].code = 4; /* compute */
  if (g->vgpu_feature) out->feature[g->licences - 1].code = 1, out->feature[g->licences - 1].state = g->vgpu_licensed;
  return OK;
}
int nvmlDeviceGetComputeMode(void *h, u32 *out) { DEVICE(h); *out = g->compute_mode; return OK; }
int nvmlDeviceSetComputeMode(void *h, u32 mode) { DEVICE(h); if (mode > 3) return INVALID; g->compute_mode = mode; return OK; }
typedef struct { u32 pid; u64 bytes; u32 gi, ci; } Running;
int nvmlDeviceGetComputeRunningProcesses_v3(void *h, u32 *count, Running *out) {
  DEVICE(h);
  if (*count < g->processes) { *count = g->processes; return TOO_SMALL; }
  *count = g->processes;
  for (u32 i = 0; i < g->processes; i++)
    out[i] = (Running){g->process[i].pid, g->process[i].bytes, g->process[i].gi, g->process[i].gi + 1 ? 0 : -1u};
  return OK;
}
