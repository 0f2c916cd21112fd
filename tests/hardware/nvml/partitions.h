/* MIG: modes, profiles, placements; GPU instances and compute instances, kept in the file under its lock. */
typedef struct { u32 start, size; } Place;
int nvmlDeviceGetMigMode(void *h, u32 *current, u32 *pending) {
  DEVICE(h);
  if (!g->mig_capable) return UNSUPPORTED;
  *current = g->mig_current; *pending = g->mig_pending;
  return OK;
}
int nvmlDeviceGetMaxMigDeviceCount(void *h, u32 *out) { DEVICE(h); *out = g->mig_capable ? g->compute_slices : 0; return OK; }
typedef struct { u32 id, p2p, slices, count, sms, ce, dec, enc, jpeg, ofa; u64 mib; } Shape;
typedef struct { u32 version, id, p2p, slices, count, sms, ce, dec, enc, jpeg, ofa; u64 mib; char name[96]; } Shape2;
static int shape(Gpu_t *g, u32 number, Shape2 *out) {
  if (number >= 18) return INVALID;
  for (u32 i = 0; i < g->profiles; i++) {
    Profile_t *p = &g->profile[i];
    if (p->number != number) continue;
    int whole = p->slices == g->compute_slices;
    *out = (Shape2){out->version, p->id, whole, p->slices, p->count, p->sms, p->ce, p->dec, p->enc, p->jpeg, p->ofa,
                    p->memory_mib, ""};
    memcpy(out->name, p->name, 96);
    return OK;
  }
  return UNSUPPORTED;
}
int nvmlDeviceGetGpuInstanceProfileInfo(void *h, u32 number, Shape *out) {
  DEVICE(h);
  Shape2 full = {0};
  TRY(shape(g, number, &full));
  *out = (Shape){full.id, full.p2p, full.slices, full.count, full.sms, full.ce, full.dec, 0, full.jpeg, full.ofa, full.mib};
  return OK;
}
int nvmlDeviceGetGpuInstanceProfileInfoV(void *h, u32 number, Shape2 *out) { DEVICE(h); return shape(g, number, out); }
int nvmlDeviceGetGpuInstancePossiblePlacements_v2(void *h, u32 id, Place *out, u32 *count) {
  DEVICE(h);
  Profile_t *p = profile(g, id);
  if (!p) return UNSUPPORTED;
  if (!out) { *count = p->places; return OK; }
  if (*count < p->places) return TOO_SMALL;
  for (u32 i = 0; i < p->places; i++) out[i] = (Place){p->starts[i], p->width};
  *count = p->places;
  return OK;
}
static u32 used_by(Gpu_t *g, u32 what) { /* 0 memory slices as a mask, 1 compute slices, 2 media engines */
  u32 mask = 0, slices = 0, media = 0;
  for (int k = 0; k < MAX_INSTANCES; k++) {
    Instance_t *v = &g->instance[k];
    Profile_t *p = v->used ? profile(g, v->profile) : NULL;
    if (!p) continue;
    mask |= ((1u << v->size) - 1) << v->start; slices += p->slices; media += p->media;
  }
  return what == 0 ? mask : what == 1 ? slices : media;
}
static int fits(Gpu_t *g, Profile_t *p, u32 start) {
  u32 mask = ((1u << p->width) - 1) << start, same = 0;
  for (int k = 0; k < MAX_INSTANCES; k++) same += g->instance[k].used && g->instance[k].profile == p->id;
  return !(used_by(g, 0) & mask) && used_by(g, 1) + p->slices <= g->compute_slices && same < p->count
      && used_by(g, 2) + p->media <= 1;
}
int nvmlDeviceGetGpuInstanceRemainingCapacity(void *h, u32 id, u32 *out) {
  DEVICE(h);
  Profile_t *p = profile(g, id);
  if (!p) return UNSUPPORTED;
  *out = 0;
  for (u32 i = 0; i < p->places; i++) *out += fits(g, p, p->starts[i]);
  return OK;
}
static int create(Gpu_t *g, int n, u32 id, const Place *place, void **out) {
  Profile_t *p = profile(g, id);
  if (!g->mig_current || !p) return UNSUPPORTED;
  lock();
  int result = place ? INVALID : EXHAUSTED;
  for (u32 i = 0; i < p->places; i++) {
    if (place && place->start != p->starts[i]) continue;
    result = EXHAUSTED;
    if (!fits(g, p, p->starts[i])) continue;
    for (int k = 1; k < MAX_INSTANCES; k++)
      if (!g->instance[k].used) {
        g->instance[k] = (Instance_t){1, id, p->starts[i], p->width, -1, ""};
        *out = &gis[n * MAX_INSTANCES + k];
        unlock();
        return OK;
      }
  }
  unlock();
  return result;
}
int nvmlDeviceCreateGpuInstance(void *h, u32 id, void **out) { DEVICE(h); return create(g, n, id, NULL, out); }
int nvmlDeviceCreateGpuInstanceWithPlacement(void *h, u32 id, const Place *place, void **out) {
  DEVICE(h); return create(g, n, id, place, out);
}
int nvmlGpuInstanceDestroy(void *gi) {
  INSTANCE(gi, gis);
  lock();
  int busy = v->ci >= 0;
  if (!busy) v->used = 0;
  unlock();
  return busy ? IN_USE : OK;
}
int nvmlDeviceGetGpuInstances(void *h, u32 id, void **out, u32 *count) {
  DEVICE(h);
  if (!g->mig_current || !profile(g, id)) return UNSUPPORTED;
  *count = 0;
  for (int k = 0; k < MAX_INSTANCES; k++)
    if (g->instance[k].used && g->instance[k].profile == id) out[(*count)++] = &gis[n * MAX_INSTANCES + k];
  return OK;
}
int nvmlDeviceGetGpuInstanceById(void *h, u32 id, void **out) {
  DEVICE(h);
  if (id >= MAX_INSTANCES || !g->instance[id].used) return NOT_FOUND;
  *out = &gis[n * MAX_INSTANCES + id];
  return OK;
}
typedef struct { void *device; u32 id, profile; Place place; } GiInfo;
int nvmlGpuInstanceGetInfo(void *gi, GiInfo *out) {
  INSTANCE(gi, gis);
  *out = (GiInfo){&devices[n], k, v->profile, {v->start, v->size}};
  return OK;
}
/* Compute instances: the one that fills its GPU instance, with the number of its slices as the id of its profile. */
static const u32 SLICES[] = {1, 2, 3, 4, 7};
typedef struct { u32 id, slices, count, sms, ce, dec, enc, jpeg, ofa; } CiShape;
typedef struct { u32 version; CiShape shape; char name[96]; } CiShape2;
static int ci_shape(Gpu_t *g, Instance_t *v, u32 number, CiShape *out) {
  Profile_t *p = profile(g, v->profile);
  if (number >= 9) return INVALID;
  if (!p || number >= 5 || SLICES[number] != p->slices) return UNSUPPORTED;
  *out = (CiShape){number, p->slices, 1, p->sms, p->slices, p->media, 0, p->media, p->media};
  return OK;
}
int nvmlGpuInstanceGetComputeInstanceProfileInfo(void *gi, u32 number, u32 engine, CiShape *out) {
  INSTANCE(gi, gis); return engine ? INVALID : ci_shape(g, v, number, out);
}
int nvmlGpuInstanceGetComputeInstanceProfileInfoV(void *gi, u32 number, u32 engine, CiShape2 *out) {
  INSTANCE(gi, gis); memset(out->name, 0, 96); return engine ? INVALID : ci_shape(g, v, number, &out->shape);
}
int nvmlGpuInstanceCreateComputeInstance(void *gi, u32 id, void **out) {
  INSTANCE(gi, gis);
  CiShape s;
  if (ci_shape(g, v, id, &s)) return UNSUPPORTED;
  lock();
  int taken = v->ci >= 0;
  if (!taken) {
    v->ci = 0;
    snprintf(v->uuid, sizeof v->uuid, "MIG-%08x-%04x-5000-8000-%06x%06x", n + 1, k, v->profile, v->start);
    *out = &cis[n * MAX_INSTANCES + k];
  }
  unlock();
  return taken ? EXHAUSTED : OK;
}
int nvmlComputeInstanceDestroy(void *ci) {
  INSTANCE(ci, cis);
  if (v->ci < 0) return NOT_FOUND;
  for (u32 i = 0; i < g->processes; i++) if (g->process[i].gi == (u32)k) return IN_USE;
  lock();
  v->ci = -1; v->uuid[0] = 0;
  unlock();
  return OK;
}
int nvmlGpuInstanceGetComputeInstances(void *gi, u32 id, void **out, u32 *count) {
  INSTANCE(gi, gis);
  CiShape s;
  TRY(ci_shape(g, v, id, &s));
  *count = v->ci >= 0;
  if (*count) out[0] = &cis[n * MAX_INSTANCES + k];
  return OK;
}
int nvmlGpuInstanceGetComputeInstanceById(void *gi, u32 id, void **out) {
  INSTANCE(gi, gis);
  if (v->ci < 0 || id != (u32)v->ci) return NOT_FOUND;
  *out = &cis[n * MAX_INSTANCES + k];
  return OK;
}
typedef struct { void *device, *gi; u32 id, profile; Place place; } CiInfo;
int nvmlComputeInstanceGetInfo_v2(void *ci, CiInfo *out) {
  INSTANCE(ci, cis);
  if (v->ci < 0) return NOT_FOUND;
  *out = (CiInfo){&devices[MAX_GPUS + n * MAX_INSTANCES + k], &gis[n * MAX_INSTANCES + k], v->ci, 0, {0, 0}};
  (void)g;
  return OK;
}
int nvmlDeviceGetMigDeviceHandleByIndex(void *h, u32 index, void **out) {
  DEVICE(h);
  for (u32 k = 0; k < MAX_INSTANCES; k++)
    if (g->instance[k].used && g->instance[k].ci >= 0 && index-- == 0) {
      *out = &devices[MAX_GPUS + n * MAX_INSTANCES + k]; return OK;
    }
  return NOT_FOUND;
}
int nvmlDeviceIsMigDeviceHandle(void *h, u32 *out) { DEVICE(h); (void)g; *out = mig_of(h) >= 0; return OK; }
int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(void *h, void **out) {
  DEVICE(h); (void)g; if (mig_of(h) < 0) return INVALID; *out = &devices[n]; return OK;
}
int nvmlDeviceGetGpuInstanceId(void *h, u32 *out) {
  DEVICE(h); (void)g; if (mig_of(h) < 0) return UNSUPPORTED; *out = mig_of(h); return OK;
}
int nvmlDeviceGetComputeInstanceId(void *h, u32 *out) {
  DEVICE(h); if (mig_of(h) < 0) return UNSUPPORTED; *out = g->instance[mig_of(h)].ci; return OK;
}
typedef struct { u32 sms, ce, dec, enc, jpeg, ofa, gi, ci; u64 mib; } Attributes;
int nvmlDeviceGetAttributes_v2(void *h, Attributes *out) {
  DEVICE(h);
  Profile_t *p = mig_of(h) < 0 ? NULL : profile(g, g->instance[mig_of(h)].profile);
  if (!p) return UNSUPPORTED;
  *out = (Attributes){p->sms, p->slices, p->media, 0, p->media, p->media, p->slices, p->slices, p->memory_mib};
  return OK;
}
