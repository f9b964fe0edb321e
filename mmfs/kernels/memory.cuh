// Storage types, and every access to global and shared memory: one place to check them all when run as C++ by the tests.

#pragma once

#include "arguments.cuh"
#include "sampling.h"

#if defined(__CUDACC__)
#define MMFS_DEVICE __device__ __forceinline__
#define MMFS_READS(pointer, bytes)
#define MMFS_WRITES(pointer, bytes)
#define MMFS_SHARED_INDEX(index, size)
#define MMFS_SHARED_BYTES(bytes)
#endif

namespace mmfs {

// ---------------------------------------------------------------------------------------------------------------------
// Storage types. CUDA's own half types need headers that NVRTC may not find.

struct half {
    unsigned short bits;
};
struct bfloat16 {
    unsigned short bits;
};

template <typename T>
struct WideOf {
    using type = float;
};
template <>
struct WideOf<double> {
    using type = double;
};
template <typename T>
using Wide = typename WideOf<T>::type;

template <typename T>
constexpr bool IS_BFLOAT16 = false;
template <>
inline constexpr bool IS_BFLOAT16<bfloat16> = true;

MMFS_DEVICE float widen(float x) { return x; }
MMFS_DEVICE double widen(double x) { return x; }

#if defined(__CUDACC__)
MMFS_DEVICE float widen(half x) {
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x.bits));
    return wide;
}
MMFS_DEVICE float widen(bfloat16 x) { return __uint_as_float(static_cast<unsigned>(x.bits) << 16); }
MMFS_DEVICE void narrow(float x, half& narrowed) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(narrowed.bits) : "f"(x)); }
MMFS_DEVICE void narrow(float x, bfloat16& narrowed) { asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(narrowed.bits) : "f"(x)); }
#else
MMFS_DEVICE float widen(half x) { return emulation::float_of_half(x.bits); }
MMFS_DEVICE float widen(bfloat16 x) { return emulation::float_of_bfloat16(x.bits); }
MMFS_DEVICE void narrow(float x, half& narrowed) { narrowed.bits = emulation::half_of_float(x); }
MMFS_DEVICE void narrow(float x, bfloat16& narrowed) { narrowed.bits = emulation::bfloat16_of_float(x); }
#endif
MMFS_DEVICE void narrow(float x, float& narrowed) { narrowed = x; }
MMFS_DEVICE void narrow(double x, double& narrowed) { narrowed = x; }

// ---------------------------------------------------------------------------------------------------------------------
// Global memory

template <typename T>
MMFS_DEVICE T load(const T* pointer) {
    MMFS_READS(pointer, sizeof(T));
    return *pointer;
}

template <typename T>
MMFS_DEVICE void store(T* pointer, T x) {
    MMFS_WRITES(pointer, sizeof(T));
    *pointer = x;
}

template <int BYTES>
struct Word;
template <>
struct Word<16> {
    struct alignas(16) type {
        unsigned word[4];
    };
};
template <>
struct Word<8> {
    struct alignas(8) type {
        unsigned word[2];
    };
};
template <>
struct Word<4> {
    using type = unsigned;
};
template <>
struct Word<2> {
    using type = unsigned short;
};

// SIZE neighbours, read or written at once.
template <typename T, int SIZE>
struct Vector {
    union {
        typename Word<sizeof(T) * SIZE>::type word;
        T element[SIZE];
    };
};

template <int SIZE, typename T>
MMFS_DEVICE void load_vector(const T* pointer, Wide<T> (&wide)[SIZE]) {
    using Bits = typename Word<sizeof(T) * SIZE>::type;
    MMFS_READS(pointer, sizeof(Bits));
    Vector<T, SIZE> vector;
    vector.word = *reinterpret_cast<const Bits*>(pointer);
#pragma unroll
    for (int i = 0; i < SIZE; ++i) {
        wide[i] = widen(vector.element[i]);
    }
}

template <int SIZE, typename T>
MMFS_DEVICE void store_vector(T* pointer, const Wide<T> (&wide)[SIZE]) {
    using Bits = typename Word<sizeof(T) * SIZE>::type;
    MMFS_WRITES(pointer, sizeof(Bits));
    Vector<T, SIZE> vector;
#pragma unroll
    for (int i = 0; i < SIZE; ++i) {
        narrow(wide[i], vector.element[i]);
    }
    *reinterpret_cast<Bits*>(pointer) = vector.word;
}

template <typename W>
MMFS_DEVICE void add_to(W* pointer, W x) {
    MMFS_WRITES(pointer, sizeof(W));
    atomicAdd(pointer, x);
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
MMFS_DEVICE void add_four(float* pointer, float a, float b, float c, float d) {
    asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(pointer)), "f"(a),
                 "f"(b), "f"(c), "f"(d)
                 : "memory");
}
#endif

// Adds SIZE neighbours, four at a time where the hardware can.
template <int SIZE, typename W>
MMFS_DEVICE void add_vector(W* pointer, const W (&x)[SIZE]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    constexpr bool BY_FOUR = sizeof(W) == 4 && SIZE % 4 == 0;
#else
    constexpr bool BY_FOUR = false;
#endif
#pragma unroll
    for (int i = 0; i < SIZE; i += BY_FOUR ? 4 : 1) {
        if constexpr (BY_FOUR) {
            add_four(pointer + i, x[i], x[i + 1], x[i + 2], x[i + 3]);
        } else {
            add_to(pointer + i, x[i]);
        }
    }
}

enum Kind { FLOAT32 = 0, FLOAT64 = 1, FLOAT16 = 2, BFLOAT16 = 3 };

template <typename W>
MMFS_DEVICE W read(const Array& array, int64 index) {
    switch (array.kind) {
        case FLOAT32:
            return static_cast<W>(load(static_cast<const float*>(array.data) + index));
        case FLOAT64:
            return static_cast<W>(load(static_cast<const double*>(array.data) + index));
        case FLOAT16:
            return static_cast<W>(widen(load(static_cast<const half*>(array.data) + index)));
        default:
            return static_cast<W>(widen(load(static_cast<const bfloat16*>(array.data) + index)));
    }
}

template <typename T, typename W>
MMFS_DEVICE T narrowed(W x) {
    T result;
    narrow(static_cast<Wide<T>>(x), result);
    return result;
}

template <typename W>
MMFS_DEVICE void write(const Array& array, int64 index, W x) {
    switch (array.kind) {
        case FLOAT32:
            return store(static_cast<float*>(array.data) + index, static_cast<float>(x));
        case FLOAT64:
            return store(static_cast<double*>(array.data) + index, static_cast<double>(x));
        case FLOAT16:
            return store(static_cast<half*>(array.data) + index, narrowed<half>(x));
        default:
            return store(static_cast<bfloat16*>(array.data) + index, narrowed<bfloat16>(x));
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Shared memory

extern __shared__ __align__(16) unsigned char shared_memory[];

template <typename T>
struct SharedArray {
    T* data;
    int size;

    MMFS_DEVICE T& operator[](int index) const {
        MMFS_SHARED_INDEX(index, size);
        return data[index];
    }
};

// Hands out the block's dynamic shared memory piece by piece.
struct SharedMemory {
    int used = 0;

    template <typename T>
    MMFS_DEVICE SharedArray<T> take(int count) {
        const SharedArray<T> array{reinterpret_cast<T*>(shared_memory + used), count};
        // The next array may need the alignment of a 16-byte load.
        used += (count * static_cast<int>(sizeof(T)) + 15) / 16 * 16;
        MMFS_SHARED_BYTES(used);
        return array;
    }
};

}  // namespace mmfs
