// Stands in for the entry points of CUDA's runtime and driver that torch calls
// for tensors without storage. Preload it.
#include <cstdint>

namespace c10::cuda {
bool hasPrimaryContext(signed char) { return false; }
int GetDevice(signed char *device) { *device = 0; return 0; }
int SetDevice(signed char) { return 0; }
int SetDevice(signed char, bool) { return 0; }
int MaybeSetDevice(signed char) { return 0; }
signed char ExchangeDevice(signed char) { return 0; }
signed char MaybeExchangeDevice(signed char) { return 0; }
signed char current_device() { return 0; }
void set_device(signed char) {}
void set_device(signed char, bool) {}
}  // namespace c10::cuda

extern "C" {
int cudaGetDeviceCount(int *count) { *count = 1; return 0; }
int cudaGetDevice(int *device) { *device = 0; return 0; }
int cudaSetDevice(int) { return 0; }
int cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
  if (least) *least = 0;
  if (greatest) *greatest = 0;
  return 0;
}
int cudaStreamGetCaptureInfo(void *, int *status) { *status = 0; return 0; }
int cudaStreamIsCapturing(void *, int *status) { *status = 0; return 0; }
int cudaEventCreateWithFlags(void **event, unsigned) {
  *event = reinterpret_cast<void *>(1);
  return 0;
}
int cudaEventRecord(void *, void *) { return 0; }
int cudaStreamWaitEvent(void *, void *, unsigned) { return 0; }
int cudaEventDestroy(void *) { return 0; }
int cudaEventQuery(void *) { return 0; }
int cudaDeviceSynchronize() { return 0; }
int cudaStreamSynchronize(void *) { return 0; }
int cuDevicePrimaryCtxGetState(int, unsigned *flags, int *active) {
  if (flags) *flags = 0;
  if (active) *active = 1;
  return 0;
}
int cuGetErrorString(int, const char **text) { *text = "simulated"; return 0; }
int cuInit(unsigned) { return 0; }
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
}
