// What Python calls (library.py, by ctypes). It stands at the head of the chain from a call to pixels: it chooses the
// instruction set and starts the threads, each of which runs `work` of image.cc. call.h has the order of reading.
#include "call.h"

#ifdef _WIN32
#include <windows.h>
#define EXPORT extern "C" __declspec(dllexport)
#else
#include <pthread.h>
#define EXPORT extern "C" __attribute__((visibility("default")))
#endif

#ifdef __linux__
#include <sys/mman.h>
#endif

#ifdef STN_X86
#include <cpuid.h>
namespace v2 { Worker work; }
namespace v3 { Worker work; }
#else
namespace baseline { Worker work; }
#endif

namespace {

struct Level {
  Worker* work;
  const char* name;
};

#ifdef STN_X86
// Whether processor and system know all of x86-64-v3. The processor is asked directly, since __builtin_cpu_supports needs
// a runtime library that not every toolchain links.
bool has_v3() {
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return false;
  unsigned wanted = bit_FMA | bit_MOVBE | bit_OSXSAVE | bit_AVX | bit_F16C;
  if ((c & wanted) != wanted) return false;
  unsigned low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  if ((low & 6) != 6) return false;  // the system keeps the wide registers of a thread
  unsigned wide = bit_AVX2 | bit_BMI | bit_BMI2;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (b & wide) != wide) return false;
  return __get_cpuid(0x80000001, &a, &b, &c, &d) && c & bit_LZCNT;
}
const Level LEVELS[] = {{v2::work, "x86-64-v2"}, {v3::work, "x86-64-v3"}};
int best() { return has_v3() ? 1 : 0; }
#else
const Level LEVELS[] = {{baseline::work, "baseline"}};
int best() { return 0; }
#endif
int chosen = -1;

const Level& level() {
  if (chosen < 0) chosen = best();
  return LEVELS[chosen];
}

// Asks the system for large pages where a result will lie. The C library maps a result of 32 MB or more anew for every
// call, and each first touch of a small page is a page fault. In 32x3x448² to two crops of 224² the page faults took as
// long as the sampling.
void request_large_pages(const Call& call, void* result, int64_t pixels) {
#ifdef __linux__
  constexpr uintptr_t FROM = 32 << 20, PAGE = 2 << 20;  // bytes
  uintptr_t bytes = uintptr_t(pixels * call.channels * call.bytes_of_number());
  uintptr_t start = reinterpret_cast<uintptr_t>(result), first = (start + PAGE - 1) / PAGE * PAGE;
  if (result && bytes >= FROM) madvise(reinterpret_cast<void*>(first), (start + bytes) / PAGE * PAGE - first, MADV_HUGEPAGE);
#else
  (void)call, (void)result, (void)pixels;
#endif
}

// What the threads of a call share.
struct Shared {
  const Call* call;
  int64_t next;  // the next unit of work (`Worker` in call.h)
  int failed;    // whether memory ran out in any thread
};
void work(Shared* shared) {
  if (level().work(*shared->call, &shared->next)) __atomic_store_n(&shared->failed, 1, __ATOMIC_RELAXED);
}

// Threads live for one call. So there is nothing for a fork to break, and no pool whose threads spin between calls.
#ifdef _WIN32
typedef HANDLE Thread;
DWORD WINAPI entry(void* shared) { return work(static_cast<Shared*>(shared)), 0; }
bool start(Thread* thread, Shared* shared) { return (*thread = CreateThread(nullptr, 0, entry, shared, 0, nullptr)); }
void join(Thread thread) { WaitForSingleObject(thread, INFINITE), CloseHandle(thread); }
#else
typedef pthread_t Thread;
void* entry(void* shared) { return work(static_cast<Shared*>(shared)), nullptr; }
bool start(Thread* thread, Shared* shared) { return !pthread_create(thread, nullptr, entry, shared); }
void join(Thread thread) { pthread_join(thread, nullptr); }
#endif
enum { MOST_THREADS = 256 };

}  // namespace

EXPORT const char* stn_digest() { return STN_DIGEST; }
EXPORT const char* stn_level() { return level().name; }
EXPORT int64_t stn_call_size() { return sizeof(Call); }

// Uses instruction set `number` instead of the best one, for tests. Returns 1 if this processor does not have it.
EXPORT int stn_choose(int number) {
  if (number < 0 || number > best()) return 1;
  chosen = number;
  return 0;
}

// Runs a call. Returns 0, or 1 where memory ran out.
EXPORT int stn_sample(const Call* call, int64_t threads) {
  int64_t results = call->starts ? call->starts[call->images] : call->images * call->transformers;
  request_large_pages(*call, call->output, results * call->pixels_out());
  request_large_pages(*call, call->input_gradient, call->images * call->pixels_in());
  Shared shared = {call, 0, 0};
  Thread others[MOST_THREADS];
  int made = 0;
  while (made < threads - 1 && made < MOST_THREADS && start(&others[made], &shared)) made++;
  work(&shared);
  for (int i = 0; i < made; i++) join(others[i]);
  return shared.failed;
}
