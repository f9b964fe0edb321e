// A product of matrices by one warp on tensor cores: [16, 16] x [16, 8], half types in, float32 out.
//
// Each lane holds pairs of neighbours along the summed dimension of 16, and some of the sums. Which ones the hardware
// determines: "Matrix fragments for mma.m16n8k16" in NVIDIA's PTX manual. The functions below return them.

#pragma once

#include "memory.cuh"

namespace mmfs {

constexpr int MATRIX_ROWS = 16;
constexpr int MATRIX_COLUMNS = 8;
constexpr int MATRIX_DEPTH = 16;  // of the sum
constexpr int MATRIX_SUMS = 4;    // of a lane

// Register k of the left matrix, 0 to 3: its row, and which pair of the summed dimension.
MMFS_DEVICE int left_row(int lane, int k) { return lane / 4 + k % 2 * 8; }
MMFS_DEVICE int left_pair(int lane, int k) { return lane % 4 + k / 2 * 4; }
// Register k of the right matrix, 0 or 1.
MMFS_DEVICE int right_column(int lane) { return lane / 4; }
MMFS_DEVICE int right_pair(int lane, int k) { return lane % 4 + k * 4; }
// Sum k, 0 to 3.
MMFS_DEVICE int sum_row(int lane, int k) { return lane / 4 + k / 2 * 8; }
MMFS_DEVICE int sum_column(int lane, int k) { return lane % 4 * 2 + k % 2; }

#if defined(__CUDACC__)
template <typename T>
MMFS_DEVICE void multiply(float (&sums)[MATRIX_SUMS], const unsigned (&left)[4], const unsigned (&right)[2]) {
#define MMFS_MULTIPLY(type)                                                                                    \
    asm("mma.sync.aligned.m16n8k16.row.col.f32." type "." type ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "      \
        "{%8, %9}, {%0, %1, %2, %3};"                                                                          \
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])                                           \
        : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right[0]), "r"(right[1]))
    if constexpr (IS_BFLOAT16<T>) {
        MMFS_MULTIPLY("bf16");
    } else {
        MMFS_MULTIPLY("f16");
    }
#undef MMFS_MULTIPLY
}
#else
template <typename T>
MMFS_DEVICE void multiply(float (&sums)[MATRIX_SUMS], const unsigned (&left)[4], const unsigned (&right)[2]) {
    emulation::multiply(sums, left, right, [](unsigned short bits) { return widen(T{bits}); });
}
#endif

}  // namespace mmfs
