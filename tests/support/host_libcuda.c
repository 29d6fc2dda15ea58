/* A CUDA driver that does on the host, at once, what a GPU would do in its streams' turn.

   Real bindings call it, and so show that they are called with the right arguments. It answers as the driver
   does where a context, pinned memory, a stream or a handle is missing. What tests ask of it begins with host_.
*/
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef unsigned long long Address;

enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_DEVICE = 101, INVALID_CONTEXT = 201,
       INVALID_HANDLE = 400, NOT_READY = 600, NOT_REGISTERED = 713, WRONG_CAPTURE = 903 };
enum { DEVICE = 1, PINNED, STREAM, EVENT, GRAPH, EXEC, SHARED, KINDS };
enum { MOST = 256, DEPTH = 16, TOTAL = 1 << 24 };

struct thing { int kind; Address at; size_t size; double when; struct thing *captured; int notes; };
struct note { char *to; const char *from; size_t size; int value; };

static struct thing things[MOST];
static struct note noted[MOST];
static int retained, sticky, held, notes, made_contexts;
static struct { char call[64]; int code, after; } failure;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static __thread int depth;
static char shared_memory[4096];
static const char shared_handle[64] = "the handle of another process's memory";

void host_fail(const char *call, int code, int after) {
    snprintf(failure.call, sizeof failure.call, "%s", call);
    failure.code = code;
    failure.after = after;
}
void host_hold(int whether) { held = whether; }
int host_retained(void) { return retained; }
int host_depth(void) { return depth; }
int host_contexts(void) { return made_contexts; }
const char *host_shared_handle(void) { return shared_handle; }
int host_live(int kind) {
    int count = 0;
    for (int i = 0; i < MOST; i++) count += things[i].kind == kind;
    return count;
}

static int fails(const char *call) {
    if (failure.code && !strcmp(call, failure.call) && failure.after-- == 0) {
        int code = failure.code;
        failure.code = 0;
        if (code >= 700 && code < 720) sticky = code;
        return code;
    }
    return 0;
}
static int begins(const char *call) {
    int code = fails(call);
    return code ? code : depth == 0 ? INVALID_CONTEXT : sticky;
}
#define BEGIN int code = begins(__func__); if (code) return code;

static struct thing *add(int kind, Address at, size_t size) {
    pthread_mutex_lock(&lock);
    struct thing *found = NULL;
    for (int i = 0; i < MOST && !found; i++) if (!things[i].kind) found = &things[i];
    if (!found) abort();
    *found = (struct thing){.kind = kind, .at = at ? at : (Address)(size_t)found, .size = size};
    pthread_mutex_unlock(&lock);
    return found;
}
static struct thing *find(int kind, Address at, size_t size) {
    for (int i = 0; i < MOST; i++)
        if (things[i].kind == kind && at >= things[i].at && at + size <= things[i].at + things[i].size)
            return &things[i];
    return NULL;
}
static struct thing *handle(int kind, void *given) {
    for (int i = 0; i < MOST; i++) if (&things[i] == given && things[i].kind == kind) return &things[i];
    return NULL;
}
static int on_device(Address at, size_t size) { return find(DEVICE, at, size) || find(SHARED, at, size); }
static int ends(int kind, void *given) {
    struct thing *found = handle(kind, given);
    if (!found) return INVALID_HANDLE;
    found->kind = 0;
    return OK;
}
static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e3 + time.tv_nsec / 1e6;
}
static void act(struct note note) {
    if (note.from) memcpy(note.to, note.from, note.size);
    else memset(note.to, note.value, note.size);
}
static int give(void *stream, struct note note) {
    struct thing *found = handle(STREAM, stream);
    if (!found) return INVALID_HANDLE;
    if (found->captured) noted[notes++] = note;
    else act(note);
    return OK;
}

int cuInit(unsigned flags) { return fails(__func__); }
int cuDriverGetVersion(int *version) { *version = 13000; return OK; }
int cuGetErrorName(int code, const char **name) { *name = "CUDA_ERROR_OF_THE_HOST"; return OK; }
int cuGetErrorString(int code, const char **text) {
    switch (code) {
    case OK: *text = "no error"; break;
    case INVALID_VALUE: *text = "invalid argument"; break;
    case OUT_OF_MEMORY: *text = "out of memory"; break;
    case INVALID_DEVICE: *text = "invalid device ordinal"; break;
    case INVALID_CONTEXT: *text = "invalid device context"; break;
    case INVALID_HANDLE: *text = "invalid resource handle"; break;
    case NOT_READY: *text = "device not ready"; break;
    case NOT_REGISTERED: *text = "pointer does not correspond to a registered memory region"; break;
    case 700: *text = "an illegal memory access was encountered"; break;
    case 719: *text = "unspecified launch failure"; break;
    default: *text = "some other error";
    }
    return OK;
}
int cuDeviceGetCount(int *count) { *count = 1; return fails(__func__); }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return ordinal ? INVALID_DEVICE : fails(__func__); }
int cuDeviceGetName(char *name, int length, int device) { snprintf(name, length, "Host GPU"); return OK; }
int cuDeviceGetUuid_v2(unsigned char *uuid, int device) {
    for (int i = 0; i < 16; i++) uuid[i] = i;
    return OK;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = TOTAL; return OK; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 9 : attribute == 76 ? 0 : 1;
    return OK;
}
int cuDeviceComputeCapability(int *major, int *minor, int device) { *major = 9; *minor = 0; return OK; }
int cuDevicePrimaryCtxRetain(void **context, int device) {
    int code = fails(__func__);
    if (code) return code;
    if (!retained++) made_contexts++;
    *context = (void *)&retained;
    return OK;
}
int cuDevicePrimaryCtxRelease_v2(int device) {
    if (!retained) return INVALID_CONTEXT;
    retained--;
    return sticky;
}
int cuDevicePrimaryCtxReset_v2(int device) {
    memset(things, 0, sizeof things);
    sticky = 0;
    return fails(__func__);
}
int cuCtxPushCurrent_v2(void *context) {
    int code = fails(__func__);
    if (code) return code;
    if (context != (void *)&retained || depth == DEPTH) return INVALID_CONTEXT;
    depth++;
    return OK;
}
int cuCtxPopCurrent_v2(void **context) {
    int code = fails(__func__);
    if (code) return code;
    if (!depth) return INVALID_CONTEXT;
    if (context) *context = (void *)&retained;
    depth--;
    return OK;
}
int cuMemGetInfo_v2(size_t *available, size_t *total) {
    BEGIN
    *total = *available = TOTAL;
    for (int i = 0; i < MOST; i++) if (things[i].kind == DEVICE) *available -= things[i].size;
    return OK;
}
int cuMemAlloc_v2(Address *address, size_t size) {
    BEGIN
    if (!size) return INVALID_VALUE;
    if (size > TOTAL) return OUT_OF_MEMORY;
    *address = (Address)(size_t)aligned_alloc(256, (size + 255) / 256 * 256);
    add(DEVICE, *address, size);
    return OK;
}
int cuMemFree_v2(Address address) {
    BEGIN
    struct thing *found = find(DEVICE, address, 1);
    if (!found || found->at != address) return INVALID_VALUE;
    found->kind = 0;
    free((void *)(size_t)address);
    return OK;
}
int cuMemGetAddressRange_v2(Address *base, size_t *size, Address address) {
    BEGIN
    struct thing *found = find(DEVICE, address, 1);
    if (!found) found = find(SHARED, address, 1);
    if (!found) return INVALID_VALUE;
    if (base) *base = found->at;
    if (size) *size = found->size;
    return OK;
}
int cuMemHostRegister_v2(void *at, size_t size, unsigned flags) {
    BEGIN
    if ((size_t)at % 4096 || size % 4096) return INVALID_VALUE;
    add(PINNED, (Address)(size_t)at, size);
    return OK;
}
int cuMemHostUnregister(void *at) {
    BEGIN
    struct thing *found = find(PINNED, (Address)(size_t)at, 1);
    if (!found || found->at != (Address)(size_t)at) return NOT_REGISTERED;
    found->kind = 0;
    return OK;
}
int cuStreamCreate(void **stream, unsigned flags) {
    BEGIN
    if (flags != 1) return INVALID_VALUE; /* a stream that waits for the default one */
    *stream = add(STREAM, 0, 1);
    return OK;
}
int cuStreamDestroy_v2(void *stream) { BEGIN return ends(STREAM, stream); }
int cuStreamWaitEvent(void *stream, void *event, unsigned flags) {
    BEGIN
    return handle(STREAM, stream) && handle(EVENT, event) && !flags ? OK : INVALID_HANDLE;
}
int cuEventCreate(void **event, unsigned flags) {
    BEGIN
    if (flags != 1) return INVALID_VALUE; /* with times, and a waiter that sleeps */
    *event = add(EVENT, 0, 1);
    return OK;
}
int cuEventDestroy_v2(void *event) { BEGIN return ends(EVENT, event); }
int cuEventRecord(void *event, void *stream) {
    BEGIN
    if (!handle(STREAM, stream) || !handle(EVENT, event)) return INVALID_HANDLE;
    handle(EVENT, event)->when = now();
    return OK;
}
int cuEventSynchronize(void *event) {
    BEGIN
    if (!handle(EVENT, event)) return INVALID_HANDLE;
    while (__atomic_load_n(&held, __ATOMIC_SEQ_CST)) usleep(500);
    return sticky;
}
int cuEventQuery(void *event) { BEGIN return !handle(EVENT, event) ? INVALID_HANDLE : held ? NOT_READY : OK; }
int cuEventElapsedTime(float *milliseconds, void *start, void *end) {
    BEGIN
    if (!handle(EVENT, start) || !handle(EVENT, end)) return INVALID_HANDLE;
    *milliseconds = (float)(handle(EVENT, end)->when - handle(EVENT, start)->when);
    return OK;
}
int cuEventElapsedTime_v2(float *milliseconds, void *start, void *end) {
    return cuEventElapsedTime(milliseconds, start, end);
}
int cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t size, void *stream) {
    BEGIN
    if (!on_device(to, size) || !find(PINNED, (Address)(size_t)from, size)) return INVALID_VALUE;
    return give(stream, (struct note){(char *)(size_t)to, from, size, 0});
}
int cuMemcpyDtoHAsync_v2(void *to, Address from, size_t size, void *stream) {
    BEGIN
    if (!on_device(from, size) || !find(PINNED, (Address)(size_t)to, size)) return INVALID_VALUE;
    return give(stream, (struct note){to, (char *)(size_t)from, size, 0});
}
int cuMemcpyDtoDAsync_v2(Address to, Address from, size_t size, void *stream) {
    BEGIN
    if (!on_device(from, size) || !on_device(to, size)) return INVALID_VALUE;
    return give(stream, (struct note){(char *)(size_t)to, (char *)(size_t)from, size, 0});
}
int cuMemsetD8Async(Address to, unsigned char value, size_t size, void *stream) {
    BEGIN
    if (!on_device(to, size)) return INVALID_VALUE;
    return give(stream, (struct note){(char *)(size_t)to, NULL, size, value});
}
int cuStreamBeginCapture_v2(void *stream, int mode) {
    BEGIN
    struct thing *found = handle(STREAM, stream);
    if (!found || mode != 1) return INVALID_VALUE; /* what this thread does alone is noted */
    found->captured = add(GRAPH, 0, 1);
    found->captured->notes = notes;
    return OK;
}
int cuStreamEndCapture(void *stream, void **graph) {
    struct thing *found = handle(STREAM, stream);
    if (!found || !found->captured) return WRONG_CAPTURE;
    *graph = found->captured;
    found->captured = NULL;
    int code = begins(__func__);
    if (code) ends(GRAPH, *graph);
    return code;
}
int cuGraphInstantiateWithFlags(void **exec, void *graph, unsigned long long flags) {
    BEGIN
    if (!handle(GRAPH, graph)) return INVALID_VALUE;
    struct thing *made = add(EXEC, 0, 1);
    made->notes = handle(GRAPH, graph)->notes;
    made->size = notes;
    *exec = made;
    return OK;
}
int cuGraphDestroy(void *graph) { BEGIN return ends(GRAPH, graph); }
int cuGraphLaunch(void *exec, void *stream) {
    BEGIN
    struct thing *found = handle(EXEC, exec);
    if (!found || !handle(STREAM, stream)) return INVALID_HANDLE;
    for (int i = found->notes; i < (int)found->size; i++) act(noted[i]);
    return OK;
}
int cuGraphExecDestroy(void *exec) { BEGIN return ends(EXEC, exec); }
struct ipc { char bytes[64]; };
int cuIpcOpenMemHandle_v2(Address *address, struct ipc given, unsigned flags) {
    BEGIN
    if (memcmp(given.bytes, shared_handle, 64) || flags != 1) return INVALID_VALUE;
    *address = (Address)(size_t)shared_memory;
    add(SHARED, *address, sizeof shared_memory);
    return OK;
}
int cuIpcCloseMemHandle(Address address) {
    BEGIN
    struct thing *found = find(SHARED, address, 1);
    if (!found) return INVALID_VALUE;
    found->kind = 0;
    return OK;
}
int cuGetProcAddress_v2(const char *name, void **function, int version, unsigned long long flags, int *status) {
    char newer[128];
    snprintf(newer, sizeof newer, "%s%s", name, strcmp(name, "cuGraphInstantiate") ? "_v2" : "WithFlags");
    void *self = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
    *function = dlsym(self, newer);
    if (!*function) *function = dlsym(self, name);
    if (status) *status = *function ? 0 : 1;
    return *function ? OK : 500;
}
int cuGetProcAddress(const char *name, void **function, int version, unsigned long long flags) {
    return cuGetProcAddress_v2(name, function, version, flags, NULL);
}
