/* A libcuda that does nothing, for host.py: a launch then takes the time of the host, without that of the driver. */
#include <stdint.h>

#define NOTHING(name) int name(void) { return 0; }
NOTHING(cuCtxSetCurrent) NOTHING(cuCtxSetLimit) NOTHING(cuCtxGetLimit) NOTHING(cuFuncSetAttribute) NOTHING(cuFuncSetCacheConfig)
NOTHING(cuModuleUnload) NOTHING(cuPointerGetAttributes) NOTHING(cuOccupancyMaxActiveClusters) NOTHING(cuTensorMapEncodeTiled)
NOTHING(cuTensorMapEncodeIm2col)

int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device)
{
    switch (attribute) {
    case 75: *value = 9; break;      /* compute capability, major */
    case 76: *value = 0; break;      /* minor */
    case 97: *value = 232448; break; /* shared memory per program */
    default: *value = 1024;
    }
    return 0;
}
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = (void *)1; return 0; }
int cuCtxGetCurrent(void **context) { *context = (void *)1; return 0; }
int cuCtxGetDevice(int *device) { *device = 0; return 0; }
int cuModuleLoadData(void **module, const void *image) { *module = (void *)1; return 0; }
int cuModuleGetFunction(void **function, void *module, const char *name) { *function = (void *)1; return 0; }
int cuFuncGetAttribute(int *value, int attribute, void *function) { *value = attribute == 0 ? 1024 : 0; return 0; }
int cuGetErrorString(int error, const char **text) { *text = "no driver"; return 0; }
int cuPointerGetAttribute(void *value, int attribute, uint64_t address) { *(uint64_t *)value = address; return 0; }
int cuStreamIsCapturing(void *stream, int *status) { *status = 0; return 0; }

static long launches;
int cuLaunchKernelEx(const void *config, void *function, void **parameters, void **extra) { launches++; return 0; }
long no_driver_launches(void) { return launches; }
