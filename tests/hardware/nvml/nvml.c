/* Stand-in for libnvidia-ml.so.1: answers from a file that tests write, in the calling convention of the real one. */
#include "state.h"
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, UNSUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7, NOT_LOADED = 9,
       TIMEOUT = 10, LOST = 15, IN_USE = 19, EXHAUSTED = 23 };
typedef unsigned int u32;
typedef unsigned long long u64;

static State_t *S;
static int file = -1, references;
/* Handles are addresses in these tables: GPUs first, then the MIG devices of each. */
static char devices[MAX_GPUS * (1 + MAX_INSTANCES)], gis[MAX_GPUS * MAX_INSTANCES], cis[MAX_GPUS * MAX_INSTANCES];
typedef struct { uint64_t seen; u64 mask[MAX_GPUS]; } Set;

#define STEP_MS 20u
static void nap(u32 ms) { struct timespec t = {ms / 1000, (ms % 1000) * 1000000L}; nanosleep(&t, NULL); }
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER; /* the file's lock is one for all threads */
static void lock(void) { pthread_mutex_lock(&mutex); flock(file, LOCK_EX); }
static void unlock(void) { flock(file, LOCK_UN); pthread_mutex_unlock(&mutex); }
static int gpu_of(void *h) {
  long i = (char *)h - devices;
  if (!h || i < 0 || i >= (long)sizeof devices) return -1;
  return i < MAX_GPUS ? i : (i - MAX_GPUS) / MAX_INSTANCES;
}
static int mig_of(void *h) { long i = (char *)h - devices; return i < MAX_GPUS ? -1 : (i - MAX_GPUS) % MAX_INSTANCES; }

/* What a test asked of this function: to be slow, no longer than the rules last, or to fail (`left` times; -1 for ever). */
static int ruled(const char *name, int gpu) {
  if (!S) return UNINITIALIZED;
  for (u32 i = 0; i < S->rules && i < MAX_RULES; i++) {
    Rule_t *r = &S->rule[i];
    if (strcmp(r->name, name) || (r->gpu >= 0 && r->gpu != gpu) || !r->left) continue;
    if (r->left > 0) r->left--;
    for (u32 left = r->ms, part; left && i < S->rules; left -= part) nap(part = left < STEP_MS ? left : STEP_MS);
    if (r->code) return r->code;
  }
  return OK;
}
#define TRY(expr) do { int r_ = (expr); if (r_) return r_; } while (0)
#define SYSTEM TRY(ruled(__func__, -1))
#define DEVICE(h) int n = gpu_of(h); TRY(ruled(__func__, n)); if (n < 0 || n >= (int)S->gpus) { return INVALID; } \
  Gpu_t *g = &S->gpu[n]; if (g->lost) return LOST
#define INSTANCE(h, table) long i_ = (char *)(h) - table; \
  if (i_ < 0 || i_ >= MAX_GPUS * MAX_INSTANCES) { return INVALID; } int n = i_ / MAX_INSTANCES, k = i_ % MAX_INSTANCES; \
  TRY(ruled(__func__, n)); Gpu_t *g = &S->gpu[n]; if (g->lost) { return LOST; } \
  Instance_t *v = &g->instance[k]; if (!v->used) return NOT_FOUND
static int text(char *out, u32 size, const char *from) {
  if (strlen(from) >= size) return TOO_SMALL;
  strcpy(out, from);
  return OK;
}

int nvmlInitWithFlags(u32 flags) {
  (void)flags;
  if (references++) return OK;
  const char *path = getenv("MUSTER_NVML_STATE");
  struct stat st;
  if (!path || (file = open(path, O_RDWR | O_CLOEXEC)) < 0) { references = 0; return NOT_LOADED; }
  if (fstat(file, &st) || st.st_size != sizeof(State_t)) { close(file); references = 0; return NOT_LOADED; }
  S = mmap(NULL, sizeof *S, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (S == MAP_FAILED || S->magic != MAGIC) { S = NULL; close(file); references = 0; return NOT_LOADED; }
  int failed = ruled(__func__, -1);
  if (failed) { munmap(S, sizeof *S); S = NULL; close(file); references = 0; }
  return failed;
}
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) {
  if (!references) return UNINITIALIZED;
  if (--references == 0) { munmap(S, sizeof *S); S = NULL; close(file); }
  return OK;
}
const char *nvmlErrorString(int code) {
  switch (code) {
  case OK: return "Success"; case UNINITIALIZED: return "Uninitialized"; case INVALID: return "Invalid Argument";
  case UNSUPPORTED: return "Not Supported"; case 4: return "Insufficient Permissions"; case NOT_FOUND: return "Not Found";
  case TOO_SMALL: return "Insufficient Size"; case NOT_LOADED: return "Driver Not Loaded"; case TIMEOUT: return "Timeout";
  case LOST: return "GPU is lost"; case IN_USE: return "In use by another client"; case 18: return "RM mismatch";
  case EXHAUSTED: return "Insufficient Resources"; default: return "Unknown Error"; }
}
int nvmlSystemGetDriverVersion(char *out, u32 size) { SYSTEM; return text(out, size, S->driver); }
int nvmlSystemGetCudaDriverVersion(int *out) { SYSTEM; *out = S->cuda; return OK; }
int nvmlSystemGetCudaDriverVersion_v2(int *out) { SYSTEM; *out = S->cuda; return OK; }
int nvmlSystemGetNVMLVersion(char *out, u32 size) { SYSTEM; return text(out, size, S->driver); }
int nvmlDeviceGetCount_v2(u32 *out) { SYSTEM; *out = S->gpus; return OK; }
int nvmlDeviceGetHandleByIndex_v2(u32 i, void **out) {
  TRY(ruled(__func__, i));
  if (i >= S->gpus) return INVALID;
  if (S->gpu[i].lost) return LOST;
  *out = &devices[i];
  return OK;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, void **out) {
  SYSTEM;
  for (u32 i = 0; i < S->gpus; i++) {
    Gpu_t *g = &S->gpu[i];
    if (!strcmp(g->uuid, uuid)) { if (g->lost) return LOST; *out = &devices[i]; return OK; }
    for (int k = 0; k < MAX_INSTANCES; k++)
      if (g->instance[k].used && g->instance[k].ci >= 0 && !strcmp(g->instance[k].uuid, uuid)) {
        *out = &devices[MAX_GPUS + i * MAX_INSTANCES + k]; return OK;
      }
  }
  return NOT_FOUND;
}
int nvmlDeviceGetHandleByPciBusId_v2(const char *bus, void **out) {
  SYSTEM;
  u32 domain, b, d;
  if (sscanf(bus, "%x:%x:%x", &domain, &b, &d) != 3) return INVALID;
  for (u32 i = 0; i < S->gpus; i++)
    if (S->gpu[i].domain == domain && S->gpu[i].bus == b && S->gpu[i].device == d) { *out = &devices[i]; return OK; }
  return NOT_FOUND;
}
int nvmlDeviceGetIndex(void *h, u32 *out) { DEVICE(h); (void)g; *out = n; return OK; }
int nvmlDeviceGetName(void *h, char *out, u32 size) { DEVICE(h); return text(out, size, g->name); }
int nvmlDeviceGetUUID(void *h, char *out, u32 size) {
  DEVICE(h);
  int k = mig_of(h);
  if (k >= 0 && (!g->instance[k].used || g->instance[k].ci < 0)) return NOT_FOUND;
  return text(out, size, k < 0 ? g->uuid : g->instance[k].uuid);
}
int nvmlDeviceGetSerial(void *h, char *out, u32 size) { DEVICE(h); return text(out, size, g->serial); }
int nvmlDeviceGetMinorNumber(void *h, u32 *out) { DEVICE(h); *out = g->minor; return OK; }
int nvmlDeviceGetBrand(void *h, u32 *out) { DEVICE(h); *out = g->brand; return OK; }
int nvmlDeviceGetArchitecture(void *h, u32 *out) { DEVICE(h); *out = g->architecture; return OK; }
int nvmlDeviceGetCudaComputeCapability(void *h, int *a, int *b) { DEVICE(h); *a = g->cc_major; *b = g->cc_minor; return OK; }
int nvmlDeviceGetNumaNodeId(void *h, u32 *out) { DEVICE(h); (void)g; (void)out; return UNSUPPORTED; }
int nvmlDeviceGetAddressingMode(void *h, void *out) { DEVICE(h); ((u32 *)out)[1] = g->addressing; return OK; }
int nvmlDeviceGetCpuAffinity(void *h, u32 size, unsigned long *out) {
  DEVICE(h);
  for (u32 i = 0; i < size; i++) out[i] = i < 8 ? g->cpus[i] : 0;
  return OK;
}
int nvmlDeviceGetMemoryAffinity(void *h, u32 size, unsigned long *out, u32 scope) {
  DEVICE(h);
  (void)scope;
  memset(out, 0, size * sizeof *out);
  if (g->numa / 64 < size) out[g->numa / 64] = 1ul << g->numa % 64;
  return OK;
}
typedef struct { u64 total, free, used; } Memory;
static Profile_t *profile(Gpu_t *g, u32 id) {
  for (u32 i = 0; i < g->profiles; i++) if (g->profile[i].id == id) return &g->profile[i];
  return NULL;
}
/* Memory of a GPU, or of the MIG device that a handle names: of its profile, used by its processes. */
static Memory memory(Gpu_t *g, int k) {
  Profile_t *p = k < 0 ? NULL : profile(g, g->instance[k].profile);
  u64 total = p ? p->memory_mib << 20 : g->memory_total, used = p ? 0 : g->memory_used;
  for (u32 i = 0; p && i < g->processes; i++) if (g->process[i].gi == (u32)k) used += g->process[i].bytes;
  return (Memory){total, total - used, used};
}
int nvmlDeviceGetMemoryInfo(void *h, Memory *m) { DEVICE(h); *m = memory(g, mig_of(h)); return OK; }
typedef struct { u32 version; u64 total, reserved, free, used; } Memory2;
int nvmlDeviceGetMemoryInfo_v2(void *h, Memory2 *m) {
  DEVICE(h);
  Memory one = memory(g, mig_of(h));
  *m = (Memory2){m->version, one.total, 0, one.free, one.used};
  return OK;
}
typedef struct { char legacy[16]; u32 domain, bus, device, id, subsystem; char bus_id[32]; } Pci;
static int pci(Pci *p, u32 domain, u32 bus, u32 device, u32 id) {
  *p = (Pci){.domain = domain, .bus = bus, .device = device, .id = id};
  snprintf(p->legacy, 16, "%04X:%02X:%02X.0", domain & 0xffff, bus & 0xff, device & 0xff);
  snprintf(p->bus_id, 32, "%08X:%02X:%02X.0", domain, bus, device);
  return OK;
}
int nvmlDeviceGetPciInfo_v3(void *h, Pci *p) { DEVICE(h); return pci(p, g->domain, g->bus, g->device, g->pci_id); }
typedef struct { u32 version, domain, bus, device, id, subsystem, base, sub; char bus_id[32]; } PciExt;
int nvmlDeviceGetPciInfoExt(void *h, PciExt *p) {
  DEVICE(h);
  *p = (PciExt){p->version, g->domain, g->bus, g->device, g->pci_id, 0, 3, 2, ""};
  snprintf(p->bus_id, 32, "%08X:%02X:%02X.0", g->domain, g->bus, g->device);
  return OK;
}

#include "links.h"
#include "partitions.h"
#include "condition.h"
