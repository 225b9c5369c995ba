// As much of CUDA as spp/backend/cuda/kernels.cu needs, for a C++17 compiler and one CPU core: blocks run one
// after the other, and so do the threads of a block; where they wait for each other, each is a coroutine.
#pragma once
#include <cmath>
#include <csetjmp>
#include <cstdlib>
#include <string>
#include <type_traits>
#include <ucontext.h>

#define __global__
#define __device__
#define __shared__ static

struct Index { unsigned x, y, z; };
static Index threadIdx, blockIdx, blockDim, gridDim;

using std::exp; using std::fabs; using std::floor; using std::log; using std::pow; using std::sqrt;
template <class T> static inline T min(T a, T b) { return b < a ? b : a; }
template <class T> static inline T max(T a, T b) { return a < b ? b : a; }

namespace cpu {

constexpr unsigned MOST_THREADS = 1024;
constexpr size_t STACK = 1 << 16;

static const char *error;                       // of the launch under way, or null
static bool cooperative;                        // the threads are coroutines
static ucontext_t beginnings[MOST_THREADS];
static jmp_buf scheduler, places[MOST_THREADS]; // to jump is 7 times as fast as swapcontext, a system call
static bool begun[MOST_THREADS], finished[MOST_THREADS];
static unsigned current;
static void (*body)(void **);
static void **arguments;

static void thread_main() {
    body(arguments);
    finished[current] = true;
    _longjmp(scheduler, 1);
}

// Go on with thread `current` until it waits or ends.
static void resume() {
    if (_setjmp(scheduler))
        return;
    if (begun[current])
        _longjmp(places[current], 1);
    begun[current] = true;
    setcontext(&beginnings[current]);
}

static Index place(unsigned thread) {
    return {thread % blockDim.x, thread / blockDim.x % blockDim.y, thread / (blockDim.x * blockDim.y)};
}

// All threads up to the next barrier, again and again until they have ended.
static void run_block(unsigned threads) {
    static char *stacks = static_cast<char *>(std::malloc(STACK * MOST_THREADS));
    for (unsigned t = 0; t < threads; ++t) {
        getcontext(&beginnings[t]);
        beginnings[t].uc_stack.ss_sp = stacks + STACK * t;
        beginnings[t].uc_stack.ss_size = STACK;
        beginnings[t].uc_link = nullptr;
        makecontext(&beginnings[t], thread_main, 0);
        begun[t] = finished[t] = false;
    }
    for (unsigned ended = 0; !ended && !error;) {
        for (unsigned t = 0; t < threads; ++t) {
            current = t;
            threadIdx = place(t);
            resume();
            ended += finished[t];
        }
        if (ended && ended < threads)
            error = "some threads of a block ended while others waited in __syncthreads";
    }
}

static const char *run(void (*kernel)(void **), bool waits, const unsigned *grid, const unsigned *block, void **args) {
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    body = kernel, arguments = args, cooperative = waits, error = nullptr;
    unsigned threads = block[0] * block[1] * block[2];
    for (unsigned z = 0; z < grid[2]; ++z)
        for (unsigned y = 0; y < grid[1]; ++y)
            for (unsigned x = 0; x < grid[0] && !error; ++x) {
                blockIdx = {x, y, z};
                if (waits)
                    run_block(threads);
                else
                    for (unsigned t = 0; t < threads; ++t)
                        threadIdx = place(t), body(args);
            }
    return error;
}

// The types of a kernel's parameters as NumPy writes them, "*" before what a pointer points to.
template <class T> static std::string code() {
    if constexpr (std::is_pointer_v<T>)
        return "*" + code<std::remove_cv_t<std::remove_pointer_t<T>>>();
    else if constexpr (std::is_same_v<T, bool>)
        return "b1";
    else
        return (std::is_floating_point_v<T> ? "f" : std::is_unsigned_v<T> ? "u" : "i") + std::to_string(sizeof(T));
}
template <class... A> static std::string signature(void (*)(A...)) { return ((code<A>() + " ") + ... + ""); }

// Call a kernel with the values that `args` points to, as cuLaunchKernel takes them.
template <class... A, size_t... I> static void call(void (*kernel)(A...), void **args, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_reference_t<A> *>(args[I])...);
}
template <class... A> static void call(void (*kernel)(A...), void **args) {
    call(kernel, args, std::index_sequence_for<A...>{});
}

}  // namespace cpu

static inline long long atomicMax(long long *address, long long value) {
    const long long before = *address;
    *address = max(before, value);
    return before;
}

static inline void __syncthreads() {
    if (!cpu::cooperative)
        std::abort();       // the builder did not see that the kernel waits
    if (!_setjmp(cpu::places[cpu::current]))
        _longjmp(cpu::scheduler, 1);
}
