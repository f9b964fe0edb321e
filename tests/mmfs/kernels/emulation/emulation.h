// Enough of CUDA to run kernels as C++: threads of a block are fibres, which change at barriers and shuffles only.
//
// Every access to global and shared memory that goes through memory.cuh is checked for bounds and alignment, and a warp
// or block whose threads do not meet at the same barrier is an error. Include before the kernels' sources.

#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

#define __global__
#define __device__
#define __shared__
#define __forceinline__ inline
#define __launch_bounds__(threads, blocks)
#define __grid_constant__
#define __align__(bytes) __attribute__((aligned(bytes)))

#define MMFS_DEVICE inline
#define MMFS_READS(pointer, bytes) emulation::check_access(pointer, bytes, false)
#define MMFS_WRITES(pointer, bytes) emulation::check_access(pointer, bytes, true)
#define MMFS_SHARED_INDEX(index, size) emulation::check_index(index, size)
#define MMFS_SHARED_BYTES(bytes) emulation::check_shared(bytes)

using std::max;
using std::min;

struct Dimensions {
    unsigned x = 1;
    unsigned y = 1;
    unsigned z = 1;
};

inline Dimensions threadIdx;
inline Dimensions blockIdx;
inline Dimensions blockDim;
inline Dimensions gridDim;

namespace mmfs {
constexpr int SHARED_CAPACITY = 1 << 18;
inline unsigned char shared_memory[SHARED_CAPACITY] __align__(16);
}  // namespace mmfs

namespace emulation {

// ---------------------------------------------------------------------------------------------------------------------
// Memory

struct Range {
    std::uint64_t begin;
    std::uint64_t bytes;
    std::uint64_t writable;
};

inline std::vector<Range> ranges;
inline int shared_bytes = 0;

inline void check_access(const void* pointer, std::size_t bytes, bool writes) {
    const auto address = reinterpret_cast<std::uint64_t>(pointer);
    if (address % bytes != 0) {
        throw std::runtime_error("misaligned access of " + std::to_string(bytes) + " bytes");
    }
    for (const Range& range : ranges) {
        if (address >= range.begin && address + bytes <= range.begin + range.bytes) {
            if (writes && !range.writable) {
                throw std::runtime_error("write to an input");
            }
            return;
        }
    }
    throw std::runtime_error(std::string(writes ? "write" : "read") + " outside every tensor");
}

inline void check_index(int index, int size) {
    if (index < 0 || index >= size) {
        throw std::runtime_error("shared index " + std::to_string(index) + " of " + std::to_string(size));
    }
}

inline void check_shared(int bytes) {
    if (bytes > shared_bytes) {
        throw std::runtime_error("kernel takes " + std::to_string(bytes) + " bytes of shared memory, was launched with " +
                                 std::to_string(shared_bytes));
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Half types, rounded to nearest even

template <typename To, typename From>
To bits_as(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof(to));
    return to;
}

inline float float_of_bfloat16(std::uint16_t bits) { return bits_as<float>(std::uint32_t{bits} << 16); }

inline std::uint16_t bfloat16_of_float(float x) {
    const auto bits = bits_as<std::uint32_t>(x);
    if (x != x) {
        return static_cast<std::uint16_t>(bits >> 16 | 0x40);
    }
    return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline float float_of_half(std::uint16_t bits) {
    const std::uint32_t sign = std::uint32_t{bits} >> 15 << 31;
    const std::uint32_t exponent = bits >> 10 & 0x1f;
    const std::uint32_t mantissa = bits & 0x3ff;
    if (exponent == 0x1f) {
        return bits_as<float>(sign | 0x7f800000 | mantissa << 13);
    }
    if (exponent == 0) {
        const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
        return sign ? -magnitude : magnitude;
    }
    return bits_as<float>(sign | (exponent + 112) << 23 | mantissa << 13);
}

inline std::uint16_t half_of_float(float x) {
    const auto bits = bits_as<std::uint32_t>(x);
    const std::uint32_t sign = bits >> 16 & 0x8000;
    std::uint32_t magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) {
        return static_cast<std::uint16_t>(sign | 0x7e00);
    }
    if (magnitude >= 0x477ff000) {  // 65520 rounds to infinity
        return static_cast<std::uint16_t>(sign | 0x7c00);
    }
    if (magnitude < 0x38800000) {  // subnormal: the sum with 0.5 rounds to a multiple of 2^-24
        const float sum = bits_as<float>(magnitude) + 0.5f;
        return static_cast<std::uint16_t>(sign | (bits_as<std::uint32_t>(sum) - 0x3f000000));
    }
    magnitude += 0xc8000fff + (magnitude >> 13 & 1);
    return static_cast<std::uint16_t>(sign | magnitude >> 13);
}

// ---------------------------------------------------------------------------------------------------------------------
// Threads

constexpr int WARP_SIZE = 32;
constexpr std::size_t STACK_BYTES = 1 << 16;

enum class State { RUNNABLE, AT_WARP, AT_BLOCK, DONE };

struct Fibre {
    ucontext_t context;
    std::vector<unsigned char> stack = std::vector<unsigned char>(STACK_BYTES);
    State state = State::DONE;
    int operation = 0;  // tells a barrier from a shuffle and one shuffle from another
    std::uint64_t given[2][3] = {};  // to exchanges, in turn: one is read while the next may be written
    int turn = 0;
    int vote = 0;
};

inline std::vector<Fibre> fibres;
inline ucontext_t scheduler;
inline int running = 0;
inline std::exception_ptr failure;
inline void (*body)(const void*) = nullptr;
inline const void* body_arguments = nullptr;

inline void fibre_main() {
    try {
        body(body_arguments);
    } catch (...) {
        failure = std::current_exception();
    }
    fibres[running].state = State::DONE;
    swapcontext(&fibres[running].context, &scheduler);
}

inline void wait(State state, int operation) {
    Fibre& own = fibres[running];
    own.state = state;
    own.operation = operation;
    swapcontext(&own.context, &scheduler);
}

// The threads run one after the other, in rising or falling order: what a missing barrier leaves open differs.
inline void run_block(int threads, bool falling) {
    for (int thread = 0; thread < threads; ++thread) {
        Fibre& fibre = fibres[thread];
        getcontext(&fibre.context);
        fibre.context.uc_stack.ss_sp = fibre.stack.data();
        fibre.context.uc_stack.ss_size = fibre.stack.size();
        fibre.context.uc_link = nullptr;
        fibre.state = State::RUNNABLE;
        fibre.turn = 0;
        makecontext(&fibre.context, fibre_main, 0);
    }
    const int warps = threads / WARP_SIZE;
    auto count = [&](int first, int size, State state) {
        return std::count_if(fibres.begin() + first, fibres.begin() + first + size,
                             [&](const Fibre& fibre) { return fibre.state == state; });
    };
    while (count(0, threads, State::DONE) < threads) {
        for (int number = 0; number < warps; ++number) {
            const int first = (falling ? warps - 1 - number : number) * WARP_SIZE;
            while (true) {
                for (int lane = 0; lane < WARP_SIZE; ++lane) {
                    running = first + (falling ? WARP_SIZE - 1 - lane : lane);
                    if (fibres[running].state == State::RUNNABLE) {
                        threadIdx = {static_cast<unsigned>(running), 0, 0};
                        swapcontext(&scheduler, &fibres[running].context);
                        if (failure) {
                            std::rethrow_exception(failure);
                        }
                    }
                }
                const auto waiting = count(first, WARP_SIZE, State::AT_WARP);
                if (waiting == 0) {
                    break;
                }
                for (int thread = first; thread < first + WARP_SIZE; ++thread) {
                    if (waiting < WARP_SIZE || fibres[thread].operation != fibres[first].operation) {
                        throw std::runtime_error("threads of a warp do not meet in one warp-wide operation");
                    }
                    fibres[thread].state = State::RUNNABLE;
                }
            }
        }
        const auto waiting = count(0, threads, State::AT_BLOCK);
        if (waiting != 0 && waiting != threads) {
            throw std::runtime_error("some threads wait at __syncthreads and the others have ended");
        }
        for (int thread = 0; thread < threads && waiting != 0; ++thread) {
            fibres[thread].state = State::RUNNABLE;
        }
    }
}

inline void launch(void (*kernel)(const void*), const void* arguments, const std::int64_t grid[3], int threads,
                   int dynamic_shared_bytes, bool falling) {
    if (threads % WARP_SIZE != 0 || threads > 1024 || dynamic_shared_bytes > mmfs::SHARED_CAPACITY) {
        throw std::runtime_error("unusable launch");
    }
    if (fibres.size() < static_cast<std::size_t>(threads)) {
        fibres.resize(threads);
    }
    failure = nullptr;
    body = kernel;
    body_arguments = arguments;
    shared_bytes = dynamic_shared_bytes;
    blockDim = {static_cast<unsigned>(threads), 1, 1};
    gridDim = {static_cast<unsigned>(grid[0]), static_cast<unsigned>(grid[1]), static_cast<unsigned>(grid[2])};
    for (unsigned z = 0; z < gridDim.z; ++z) {
        for (unsigned y = 0; y < gridDim.y; ++y) {
            for (unsigned x = 0; x < gridDim.x; ++x) {
                blockIdx = {x, y, z};
                // Huge as a float, far outside as an index: what is read before it is written shows.
                std::memset(mmfs::shared_memory, 0x7f, mmfs::SHARED_CAPACITY);
                run_block(threads, falling);
            }
        }
    }
}

}  // namespace emulation

inline void __syncthreads() { emulation::wait(emulation::State::AT_BLOCK, 0); }
inline void __syncwarp() { emulation::wait(emulation::State::AT_WARP, 0); }

inline int __syncthreads_or(int x) {
    emulation::fibres[emulation::running].vote = x;
    __syncthreads();
    const auto end = emulation::fibres.begin() + blockDim.x;
    const bool any = std::any_of(emulation::fibres.begin(), end, [](const auto& fibre) { return fibre.vote != 0; });
    __syncthreads();  // the next votes overwrite these
    return any;
}

namespace emulation {

// Hands `x` to the other lanes, waits until all have, and returns what each of them gave.
template <typename T, typename Result, typename Read>
Result exchange(unsigned mask, const T& x, int operation, Read read) {
    static_assert(sizeof(T) <= sizeof(Fibre::given[0]));
    if (mask != 0xffffffffu) {
        throw std::runtime_error("an exchange must name the whole warp");
    }
    Fibre& own = fibres[running];
    const int turn = own.turn;
    own.turn = 1 - turn;
    std::memcpy(own.given[turn], &x, sizeof(x));
    wait(State::AT_WARP, operation);
    return read([turn](int lane) {
        T given;
        std::memcpy(&given, fibres[running / WARP_SIZE * WARP_SIZE + lane].given[turn], sizeof(given));
        return given;
    });
}

// Numbers that tell one exchange from another; shuffles to a distance have that of the distance, 1 to 16.
constexpr int SHUFFLE = 32;
constexpr int BALLOT = 33;
constexpr int MULTIPLY = 34;

struct Fragments {
    unsigned left[4];
    unsigned right[2];
};

// mma.m16n8k16: which lane holds what is written out here once more, from the sums' side.
template <typename Widen>
void multiply(float (&sums)[4], const unsigned (&left)[4], const unsigned (&right)[2], Widen widen) {
    Fragments own;
    std::copy(left, left + 4, own.left);
    std::copy(right, right + 2, own.right);
    exchange<Fragments, int>(0xffffffffu, own, MULTIPLY, [&](auto of_lane) {
        const int lane = running % WARP_SIZE;
        for (int sum = 0; sum < 4; ++sum) {
            const int row = lane / 4 + (sum >= 2 ? 8 : 0);
            const int column = lane % 4 * 2 + sum % 2;
            for (int k = 0; k < 16; ++k) {
                const unsigned one = of_lane(row % 8 * 4 + k % 8 / 2).left[row / 8 + k / 8 * 2];
                const unsigned other = of_lane(column * 4 + k % 8 / 2).right[k / 8];
                sums[sum] += widen(static_cast<unsigned short>(one >> k % 2 * 16)) *
                             widen(static_cast<unsigned short>(other >> k % 2 * 16));
            }
        }
        return 0;
    });
}

}  // namespace emulation

template <typename T>
T __shfl_xor_sync(unsigned mask, T x, int distance) {
    return emulation::exchange<T, T>(mask, x, distance, [distance](auto of_lane) {
        return of_lane((emulation::running ^ distance) % emulation::WARP_SIZE);
    });
}

template <typename T>
T __shfl_sync(unsigned mask, T x, int source) {
    return emulation::exchange<T, T>(mask, x, emulation::SHUFFLE, [source](auto of_lane) { return of_lane(source); });
}

inline unsigned __ballot_sync(unsigned mask, bool x) {
    return emulation::exchange<bool, unsigned>(mask, x, emulation::BALLOT, [](auto of_lane) {
        unsigned votes = 0;
        for (int lane = 0; lane < emulation::WARP_SIZE; ++lane) {
            votes |= static_cast<unsigned>(of_lane(lane)) << lane;
        }
        return votes;
    });
}

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }

template <typename T>
void atomicAdd(T* pointer, T x) {
    *pointer += x;
}
