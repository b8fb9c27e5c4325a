// Stands in for NVIDIA's libcuda.so.1 where there is no GPU: the real Python packages load it and
// call it. Compiled against the real cuda.h, so that signatures are NVIDIA's.
//
// "GPU memory" is host memory, but nothing happens when it is asked for: work waits in its stream
// until the stream is waited for, or goes into a graph while one is recorded. So a program that
// forgets to wait, or uses memory again too early, gets wrong numbers here too.
#define _GNU_SOURCE
#include <cuda.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { kCopy, kSet, kMark, kEngine };

struct CUevent_st {
  double ms;
};

typedef struct Work {
  int kind;
  char *target;
  char const *source;
  size_t size;
  int value;
  CUevent event;
  struct Work *next;
} Work;

struct CUstream_st {
  Work *first, **last;
  struct CUgraph_st *recording;
  int is_broken;
};
struct CUgraph_st {
  Work *first, **last;
};
struct CUgraphExec_st {
  Work *first;
};
struct CUctx_st {
  int retained;
};

typedef struct Block {
  char *start;
  size_t size;
  int is_pinned;
  struct Block *next;
} Block;

static struct CUctx_st primary;
static CUcontext current;
static Block *blocks;
static struct CUstream_st *recorder;  // the stream that is being recorded
static char fail_name[64];
static int fail_code, fail_after;
static char counted[64][64];
static long counts[64];
static size_t const kTotal = (size_t)8 << 30;

// ---- for the tests -----------------------------------------------------------------------------

// The call of `name` after `after` others returns `code`, and every later one too.
__attribute__((visibility("default"))) void stand_in_fail(char const *name, int code, int after) {
  snprintf(fail_name, sizeof fail_name, "%s", name);
  fail_code = code;
  fail_after = after;
}

__attribute__((visibility("default"))) long stand_in_count(char const *name) {
  for (int i = 0; i < 64; ++i)
    if (strcmp(counted[i], name) == 0) return counts[i];
  return 0;
}

__attribute__((visibility("default"))) long stand_in_blocks(void) {
  long number = 0;
  for (Block *block = blocks; block; block = block->next) ++number;
  return number;
}

static CUresult begin(char const *name) {
  int i = 0;
  while (i < 63 && counted[i][0] && strcmp(counted[i], name) != 0) ++i;
  snprintf(counted[i], sizeof counted[i], "%s", name);
  ++counts[i];
  if (fail_code && strcmp(name, fail_name) == 0 && fail_after-- <= 0) return (CUresult)fail_code;
  return CUDA_SUCCESS;
}

#define BEGIN                                      \
  do {                                             \
    CUresult const started = begin(__func__);      \
    if (started != CUDA_SUCCESS) return started;   \
  } while (0)
#define WANT_CONTEXT \
  if (current == NULL) return CUDA_ERROR_INVALID_CONTEXT

static void put(CUstream stream, Work work) {
  Work *made = malloc(sizeof *made);
  *made = work;
  made->next = NULL;
  Work ***last = stream->recording ? &stream->recording->last : &stream->last;
  **last = made;
  *last = &made->next;
}

static int lies_in(char const *start, size_t size, int is_pinned) {
  for (Block *block = blocks; block; block = block->next)
    if (block->is_pinned == is_pinned && start >= block->start &&
        start + size <= block->start + block->size)
      return 1;
  return 0;
}

// What a TensorRT engine would put on the stream: the logits are the window itself.
__attribute__((visibility("default"))) int stand_in_engine(CUstream stream, char const *window,
                                                           char *logits, size_t size) {
  if (!lies_in(window, size, 0) || !lies_in(logits, size, 0)) return 0;
  put(stream, (Work){.kind = kEngine, .target = logits, .source = window, .size = size});
  return 1;
}

static void run(Work const *work) {
  struct timespec now;
  switch (work->kind) {
    case kCopy:
    case kEngine:
      memmove(work->target, work->source, work->size);
      break;
    case kSet:
      memset(work->target, work->value, work->size);
      break;
    default:
      clock_gettime(CLOCK_MONOTONIC, &now);
      work->event->ms = 1e3 * (double)now.tv_sec + 1e-6 * (double)now.tv_nsec;
  }
}

static CUresult allocate(void **address, size_t size, int is_pinned) {
  size_t used = 0;
  for (Block *block = blocks; block; block = block->next) used += block->size;
  if (size == 0) return CUDA_ERROR_INVALID_VALUE;
  if (recorder) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  if (used + size > kTotal) return CUDA_ERROR_OUT_OF_MEMORY;
  Block *block = malloc(sizeof *block);
  *block = (Block){malloc(size), size, is_pinned, blocks};
  memset(block->start, 0xA5, size);  // not zeros: memory that nobody wrote
  blocks = block;
  *address = block->start;
  return CUDA_SUCCESS;
}

static CUresult release(void const *address, int is_pinned) {
  for (Block **at = &blocks; *at; at = &(*at)->next) {
    Block *block = *at;
    if (block->start == address && block->is_pinned == is_pinned) {
      *at = block->next;
      free(block->start);
      free(block);
      return CUDA_SUCCESS;
    }
  }
  return CUDA_ERROR_INVALID_VALUE;
}

// ---- the driver --------------------------------------------------------------------------------

CUresult cuInit(unsigned int flags) {
  BEGIN;
  return flags ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

CUresult cuDriverGetVersion(int *version) {
  *version = CUDA_VERSION;
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetCount(int *count) {
  *count = 1;
  return CUDA_SUCCESS;
}

CUresult cuDeviceGet(CUdevice *device, int ordinal) {
  BEGIN;
  *device = 0;
  return ordinal ? CUDA_ERROR_INVALID_DEVICE : CUDA_SUCCESS;
}

CUresult cuDeviceGetName(char *name, int length, CUdevice device) {
  (void)device;
  snprintf(name, (size_t)length, "Stand-in GPU");
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
  (void)device;
  *value = attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR   ? 8
           : attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR ? 6
                                                                       : 0;
  return CUDA_SUCCESS;
}

CUresult cuDeviceComputeCapability(int *major, int *minor, CUdevice device) {
  (void)device;
  *major = 8;
  *minor = 6;
  return CUDA_SUCCESS;
}

CUresult cuDeviceTotalMem(size_t *bytes, CUdevice device) {
  (void)device;
  *bytes = kTotal;
  return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
  BEGIN;
  (void)device;
  ++primary.retained;
  *context = &primary;
  return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRelease(CUdevice device) {
  (void)device;
  if (--primary.retained == 0) current = NULL;
  return CUDA_SUCCESS;
}

CUresult cuCtxSetCurrent(CUcontext context) {
  BEGIN;
  current = context;
  return CUDA_SUCCESS;
}

CUresult cuCtxPushCurrent(CUcontext context) {
  current = context;
  return CUDA_SUCCESS;
}

CUresult cuCtxPopCurrent(CUcontext *context) {
  *context = current;
  current = NULL;
  return CUDA_SUCCESS;
}

CUresult cuCtxGetCurrent(CUcontext *context) {
  *context = current;
  return CUDA_SUCCESS;
}

CUresult cuCtxGetDevice(CUdevice *device) {
  WANT_CONTEXT;
  *device = 0;
  return CUDA_SUCCESS;
}

CUresult cuMemGetInfo(size_t *free_bytes, size_t *total) {
  WANT_CONTEXT;
  *total = kTotal;
  *free_bytes = kTotal;
  for (Block *block = blocks; block; block = block->next) *free_bytes -= block->size;
  return CUDA_SUCCESS;
}

CUresult cuMemAlloc(CUdeviceptr *address, size_t size) {
  BEGIN;
  WANT_CONTEXT;
  return allocate((void **)address, size, 0);
}

CUresult cuMemFree(CUdeviceptr address) {
  BEGIN;
  return release((void *)address, 0);
}

CUresult cuMemAllocHost(void **address, size_t size) {
  BEGIN;
  WANT_CONTEXT;
  return allocate(address, size, 1);
}

CUresult cuMemHostAlloc(void **address, size_t size, unsigned int flags) {
  BEGIN;
  WANT_CONTEXT;
  (void)flags;
  return allocate(address, size, 1);
}

CUresult cuMemFreeHost(void *address) {
  BEGIN;
  return release(address, 1);
}

CUresult cuStreamCreate(CUstream *stream, unsigned int flags) {
  BEGIN;
  WANT_CONTEXT;
  (void)flags;
  *stream = calloc(1, sizeof **stream);
  (*stream)->last = &(*stream)->first;
  return CUDA_SUCCESS;
}

CUresult cuStreamDestroy(CUstream stream) {
  BEGIN;
  free(stream);
  return CUDA_SUCCESS;
}

CUresult cuStreamSynchronize(CUstream stream) {
  BEGIN;
  WANT_CONTEXT;
  if (stream->recording) {
    stream->is_broken = 1;
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  }
  for (Work *work = stream->first; work;) {
    Work *next = work->next;
    run(work);
    free(work);
    work = next;
  }
  stream->first = NULL;
  stream->last = &stream->first;
  return CUDA_SUCCESS;
}

static CUresult copy(CUstream stream, char *target, char const *source, size_t size) {
  put(stream, (Work){.kind = kCopy, .target = target, .source = source, .size = size});
  return CUDA_SUCCESS;
}

CUresult cuMemcpyHtoDAsync(CUdeviceptr target, void const *source, size_t size, CUstream stream) {
  BEGIN;
  WANT_CONTEXT;
  if (!lies_in((char *)target, size, 0) || !lies_in(source, size, 1))
    return CUDA_ERROR_INVALID_VALUE;
  return copy(stream, (char *)target, source, size);
}

CUresult cuMemcpyDtoHAsync(void *target, CUdeviceptr source, size_t size, CUstream stream) {
  BEGIN;
  WANT_CONTEXT;
  if (!lies_in(target, size, 1) || !lies_in((char *)source, size, 0))
    return CUDA_ERROR_INVALID_VALUE;
  return copy(stream, target, (char *)source, size);
}

CUresult cuMemcpyDtoDAsync(CUdeviceptr target, CUdeviceptr source, size_t size, CUstream stream) {
  BEGIN;
  WANT_CONTEXT;
  if (!lies_in((char *)target, size, 0) || !lies_in((char *)source, size, 0))
    return CUDA_ERROR_INVALID_VALUE;
  return copy(stream, (char *)target, (char *)source, size);
}

CUresult cuMemsetD8Async(CUdeviceptr target, unsigned char value, size_t size, CUstream stream) {
  BEGIN;
  WANT_CONTEXT;
  if (!lies_in((char *)target, size, 0)) return CUDA_ERROR_INVALID_VALUE;
  put(stream, (Work){.kind = kSet, .target = (char *)target, .size = size, .value = value});
  return CUDA_SUCCESS;
}

CUresult cuEventCreate(CUevent *event, unsigned int flags) {
  BEGIN;
  (void)flags;
  *event = calloc(1, sizeof **event);
  return CUDA_SUCCESS;
}

CUresult cuEventDestroy(CUevent event) {
  free(event);
  return CUDA_SUCCESS;
}

CUresult cuEventRecordWithFlags(CUevent event, CUstream stream, unsigned int flags) {
  BEGIN;
  int const is_external = flags == CU_EVENT_RECORD_EXTERNAL;
  if (is_external && !stream->recording) return CUDA_ERROR_INVALID_VALUE;
  if (stream->recording && !is_external) return CUDA_SUCCESS;  // an order and no mark
  put(stream, (Work){.kind = kMark, .event = event});
  return CUDA_SUCCESS;
}

CUresult cuEventRecord(CUevent event, CUstream stream) {
  return cuEventRecordWithFlags(event, stream, CU_EVENT_RECORD_DEFAULT);
}

CUresult cuEventElapsedTime(float *ms, CUevent start, CUevent end) {
  if (start->ms == 0 || end->ms == 0) return CUDA_ERROR_INVALID_HANDLE;
  *ms = (float)(end->ms - start->ms);
  return CUDA_SUCCESS;
}

CUresult cuStreamBeginCapture(CUstream stream, CUstreamCaptureMode mode) {
  BEGIN;
  (void)mode;
  if (stream->recording) return CUDA_ERROR_ILLEGAL_STATE;
  stream->recording = calloc(1, sizeof *stream->recording);
  stream->recording->last = &stream->recording->first;
  stream->is_broken = 0;
  recorder = stream;
  return CUDA_SUCCESS;
}

CUresult cuStreamEndCapture(CUstream stream, CUgraph *graph) {
  BEGIN;
  if (!stream->recording) return CUDA_ERROR_ILLEGAL_STATE;
  *graph = stream->is_broken ? NULL : stream->recording;
  stream->recording = NULL;
  recorder = NULL;
  return stream->is_broken ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : CUDA_SUCCESS;
}

CUresult cuGraphInstantiateWithFlags(CUgraphExec *made, CUgraph graph, unsigned long long flags) {
  BEGIN;
  if (flags) return CUDA_ERROR_INVALID_VALUE;
  *made = calloc(1, sizeof **made);
  (*made)->first = graph->first;
  return CUDA_SUCCESS;
}

CUresult cuGraphDestroy(CUgraph graph) {
  BEGIN;
  free(graph);  // what was recorded in it belongs to the executable graph now
  return CUDA_SUCCESS;
}

CUresult cuGraphLaunch(CUgraphExec graph, CUstream stream) {
  BEGIN;
  WANT_CONTEXT;
  for (Work *work = graph->first; work; work = work->next) put(stream, *work);
  return CUDA_SUCCESS;
}

CUresult cuGraphExecDestroy(CUgraphExec graph) {
  BEGIN;
  free(graph);
  return CUDA_SUCCESS;
}

static struct {
  CUresult code;
  char const *name, *text;
} const kErrors[] = {
    {CUDA_SUCCESS, "CUDA_SUCCESS", "no error"},
    {CUDA_ERROR_INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {CUDA_ERROR_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {CUDA_ERROR_NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {CUDA_ERROR_INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {CUDA_ERROR_CONTEXT_IS_DESTROYED, "CUDA_ERROR_CONTEXT_IS_DESTROYED", "context is destroyed"},
    {CUDA_ERROR_ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS",
     "an illegal memory access was encountered"},
    {CUDA_ERROR_UNKNOWN, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

static CUresult say(CUresult code, char const **text, int is_name) {
  for (size_t i = 0; i < sizeof kErrors / sizeof *kErrors; ++i)
    if (kErrors[i].code == code) {
      *text = is_name ? kErrors[i].name : kErrors[i].text;
      return CUDA_SUCCESS;
    }
  *text = NULL;
  return CUDA_ERROR_INVALID_VALUE;
}

CUresult cuGetErrorName(CUresult code, char const **text) { return say(code, text, 1); }
CUresult cuGetErrorString(CUresult code, char const **text) { return say(code, text, 0); }

// How Python packages find the functions: by the plain name, whatever its version is.
CUresult cuGetProcAddress(char const *symbol, void **found, int version, cuuint64_t flags,
                          CUdriverProcAddressQueryResult *status) {
  (void)version;
  (void)flags;
  static char const *const kSuffixes[] = {"_v2", ""};
  char name[128];
  *found = NULL;
  if (strcmp(symbol, "cuGraphInstantiate") == 0) symbol = "cuGraphInstantiateWithFlags";
  for (int i = 0; i < 2 && !*found; ++i) {
    snprintf(name, sizeof name, "%s%s", symbol, kSuffixes[i]);
    Dl_info own;
    dladdr((void *)&cuInit, &own);
    void *library = dlopen(own.dli_fname, RTLD_NOW | RTLD_NOLOAD);
    *found = library ? dlsym(library, name) : NULL;
  }
  if (status)
    *status = *found ? CU_GET_PROC_ADDRESS_SUCCESS : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
  return *found ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}
