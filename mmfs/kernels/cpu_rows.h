// Rows of channels: how they are stored, and the two loops that take nearly all of the time.
//
// W is the type of accumulation, S that of storage. A working row is padded with zeros to a whole number of vectors, so
// that no loop has a remainder.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define MMFS_AVX2
#include <immintrin.h>
#endif

#include "sampling.h"

namespace mmfs {

// ---------------------------------------------------------------------------------------------------------------------
// Vectors of 32 bytes: one AVX register, or what the compiler makes of it elsewhere

template <typename W>
struct VectorOf;
template <>
struct VectorOf<float> {
    typedef float type __attribute__((vector_size(32)));
};
template <>
struct VectorOf<double> {
    typedef double type __attribute__((vector_size(32)));
};
template <typename W>
using Vector = typename VectorOf<W>::type;

typedef int32_t Int8 __attribute__((vector_size(32)));

template <typename W>
constexpr int64_t LANES = 32 / static_cast<int64_t>(sizeof(W));

template <typename W>
int64_t padded(int64_t count) {
    return (count + LANES<W> - 1) / LANES<W> * LANES<W>;
}

template <typename W>
inline Vector<W> load(const W* from) {
    Vector<W> vector;
    std::memcpy(&vector, from, sizeof(vector));
    return vector;
}

template <typename W>
inline void store(W* to, Vector<W> vector) {
    std::memcpy(to, &vector, sizeof(vector));
}

template <typename W>
inline Vector<W> broadcast(W x) {
    return x - Vector<W>{};
}

// a * b + c. Written with intrinsics, because contraction is off: see rounded_product() of sampling.h.
#ifdef MMFS_AVX2
inline Vector<float> multiply_add(Vector<float> a, Vector<float> b, Vector<float> c) {
    return _mm256_fmadd_ps(a, b, c);
}
inline Vector<double> multiply_add(Vector<double> a, Vector<double> b, Vector<double> c) {
    return _mm256_fmadd_pd(a, b, c);
}
#else
inline Vector<float> multiply_add(Vector<float> a, Vector<float> b, Vector<float> c) { return a * b + c; }
inline Vector<double> multiply_add(Vector<double> a, Vector<double> b, Vector<double> c) { return a * b + c; }
#endif

// sums[i] += the sum of the lanes of vectors[i].
template <typename W>
inline void add_lane_sums(const Vector<W> vectors[NUM_CORNERS], W sums[NUM_CORNERS]) {
    for (int i = 0; i < NUM_CORNERS; ++i) {
        W sum = 0;
        for (int lane = 0; lane < LANES<W>; ++lane) {
            sum += vectors[i][lane];
        }
        sums[i] += sum;
    }
}
#ifdef MMFS_AVX2
template <>
inline void add_lane_sums<float>(const Vector<float> vectors[NUM_CORNERS], float sums[NUM_CORNERS]) {
    const __m256 pairs = _mm256_hadd_ps(_mm256_hadd_ps(vectors[0], vectors[1]), _mm256_hadd_ps(vectors[2], vectors[3]));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1));
    _mm_storeu_ps(sums, _mm_add_ps(_mm_loadu_ps(sums), four));
}
#endif

// exp(x) for x <= 0, exactly 0 below -87 and NaN for NaN; within 2 units in the last place. 2^n * exp(r) with
// |r| <= log(2) / 2 and a polynomial for exp(r).
inline Vector<float> exp_of_negative(Vector<float> x) {
    const float shift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, which the low bits then hold
    const Vector<float> shifted = x * 1.44269504f + shift;
    const Vector<float> n = shifted - shift;
    const Vector<float> r = multiply_add(n, broadcast(2.12194440e-4f), multiply_add(n, broadcast(-0.693359375f), x));
    Vector<float> sum = broadcast(1.9875691500e-4f);
    for (const float coefficient :
         {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f, 1.0f, 1.0f}) {
        sum = multiply_add(sum, r, broadcast(coefficient));
    }
    Int8 bits;
    std::memcpy(&bits, &shifted, sizeof(bits));
    bits = (bits + (127 - 0x4B400000)) << 23;
    Vector<float> power;
    std::memcpy(&power, &bits, sizeof(power));
    const Vector<float> result = sum * power;
    return x < -87.0f ? Vector<float>{} : result;
}
inline Vector<double> exp_of_negative(Vector<double> x) {
    for (int lane = 0; lane < LANES<double>; ++lane) {
        x[lane] = exp_of(x[lane]);
    }
    return x;
}

// ---------------------------------------------------------------------------------------------------------------------
// Storage

struct BFloat16 {
    uint16_t bits;
};
struct Float16 {
    uint16_t bits;
};

inline float from_bits(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof(x));
    return x;
}
inline uint32_t to_bits(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof(bits));
    return bits;
}

inline float widen(float x) { return x; }
inline double widen(double x) { return x; }
inline float widen(BFloat16 x) { return from_bits(static_cast<uint32_t>(x.bits) << 16); }
inline float widen(Float16 x) {
    const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
    const uint32_t rest = static_cast<uint32_t>(x.bits & 0x7FFFu) << 13;
    // Read as a float, the exponent is too small by 112; the product corrects it, and normalises subnormal numbers.
    const uint32_t finite = to_bits(from_bits(rest) * from_bits((127u + 112u) << 23));
    const bool special = rest >= (31u << 23);
    return from_bits(sign | (special ? rest | 0x7F800000u : finite));
}

inline void narrow(float x, float& to) { to = x; }
inline void narrow(double x, double& to) { to = x; }
inline void narrow(float x, BFloat16& to) {  // to the nearest, ties to even
    const uint32_t bits = to_bits(x);
    const uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
    to.bits = static_cast<uint16_t>(x == x ? rounded : 0x7FC0u);
}
inline void narrow(float x, Float16& to) {  // to the nearest, ties to even
    const uint32_t bits = to_bits(x);
    const uint32_t sign = (bits >> 16) & 0x8000u;
    const uint32_t magnitude = bits & 0x7FFFFFFFu;
    uint32_t half;
    if (magnitude > 0x7F800000u) {
        half = 0x7E00u;
    } else if (magnitude >= 0x477FF000u) {  // 65520 rounds to infinity
        half = 0x7C00u;
    } else if (magnitude < 0x38800000u) {  // below 2^-14: adding 0.5 shifts the subnormal's bits to the lowest
        half = to_bits(from_bits(magnitude) + 0.5f) - 0x3F000000u;
    } else {
        half = (magnitude - 0x38000000u + 0x0FFFu + ((magnitude >> 13) & 1u)) >> 13;
    }
    to.bits = static_cast<uint16_t>(sign | half);
}

// As many numbers as a vector has lanes, widened.
template <typename W>
inline Vector<W> load_widened(const W* from) {
    return load(from);
}
#ifdef MMFS_AVX2
inline Vector<float> load_widened(const BFloat16* from) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
inline Vector<float> load_widened(const Float16* from) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}
#endif

// The type in which rows of value are kept and read: that of storage where reading widens it at hardly any cost.
template <typename S, typename W>
struct RowType {
    typedef S type;
};
#ifndef MMFS_AVX2
template <>
struct RowType<BFloat16, float> {
    typedef float type;
};
template <>
struct RowType<Float16, float> {
    typedef float type;
};
#endif
template <typename S, typename W>
using Row = typename RowType<S, W>::type;

template <typename S, typename W>
inline void widen_row(const S* from, W* to, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
        to[i] = widen(from[i]);
    }
}

template <typename S, typename W>
inline void narrow_row(const W* from, S* to, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
        narrow(from[i], to[i]);
    }
}

#ifdef MMFS_AVX2
template <>
inline void widen_row(const Float16* from, float* to, int64_t count) {
    int64_t i = 0;
    for (; i + LANES<float> <= count; i += LANES<float>) {
        store(to + i, load_widened(from + i));
    }
    for (; i < count; ++i) {
        to[i] = widen(from[i]);
    }
}
template <>
inline void narrow_row(const float* from, Float16* to, int64_t count) {
    int64_t i = 0;
    for (; i + LANES<float> <= count; i += LANES<float>) {
        const __m128i bits = _mm256_cvtps_ph(load(from + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), bits);
    }
    for (; i < count; ++i) {
        narrow(from[i], to[i]);
    }
}
#endif

// A row as it is kept: copied, or widened.
template <typename S, typename R>
inline void keep_row(const S* from, R* to, int64_t count) {
    if constexpr (std::is_same<S, R>::value) {
        std::copy_n(from, count, to);
    } else {
        widen_row(from, to, count);
    }
}


// ---------------------------------------------------------------------------------------------------------------------
// Sums of rows

// The four rows of one sample. R is the type in which they are kept.
template <typename R, typename W>
struct SampleRows {
    const R* row[NUM_CORNERS];
    W* grad[NUM_CORNERS];  // where the gradients of these rows are summed; unused in a forward pass
    W factor[NUM_CORNERS];  // attention weight times bilinear share
};

// NV vectors of out += sum of factor * row.
template <int NV, typename R, typename W>
void add_block(const SampleRows<R, W>* sample_rows, int64_t count, int64_t channel, W* out) {
    // Each addition waits for the one before it: with few vectors, several separate sums keep the units busy.
    constexpr int SETS = NV <= 2 ? 4 : NV <= 4 ? 2 : 1;
    Vector<W> sums[SETS][NV];
    for (int set = 0; set < SETS; ++set) {
        for (int v = 0; v < NV; ++v) {
            sums[set][v] = set == 0 ? load(out + channel + v * LANES<W>) : Vector<W>{};
        }
    }
    for (int64_t i = 0; i < count; ++i) {
        for (int corner = 0; corner < NUM_CORNERS; ++corner) {
            const Vector<W> factor = broadcast(sample_rows[i].factor[corner]);
            const R* row = sample_rows[i].row[corner] + channel;
            for (int v = 0; v < NV; ++v) {
                Vector<W>& sum = sums[corner % SETS][v];
                sum = multiply_add(factor, load_widened(row + v * LANES<W>), sum);
            }
        }
    }
    for (int v = 0; v < NV; ++v) {
        for (int set = 1; set < SETS; ++set) {
            sums[0][v] += sums[set][v];
        }
        store(out + channel + v * LANES<W>, sums[0][v]);
    }
}

// dots[i][corner] += grad_out . row over NV vectors and, with SCATTER, grad += factor * grad_out.
template <int NV, bool SCATTER, typename R, typename W>
void pull_block(const SampleRows<R, W>* sample_rows, int64_t count, int64_t channel, const W* grad_out, W* dots) {
    Vector<W> grad[NV];
    for (int v = 0; v < NV; ++v) {
        grad[v] = load(grad_out + channel + v * LANES<W>);
    }
    for (int64_t i = 0; i < count; ++i) {
        Vector<W> products[NUM_CORNERS];
        for (int corner = 0; corner < NUM_CORNERS; ++corner) {
            const R* row = sample_rows[i].row[corner] + channel;
            products[corner] = grad[0] * load_widened(row);
            for (int v = 1; v < NV; ++v) {
                products[corner] = multiply_add(grad[v], load_widened(row + v * LANES<W>), products[corner]);
            }
        }
        add_lane_sums<W>(products, dots + i * NUM_CORNERS);
        if constexpr (SCATTER) {
            for (int corner = 0; corner < NUM_CORNERS; ++corner) {
                const Vector<W> factor = broadcast(sample_rows[i].factor[corner]);
                W* sum = sample_rows[i].grad[corner] + channel;
                for (int v = 0; v < NV; ++v) {
                    store(sum + v * LANES<W>, multiply_add(factor, grad[v], load(sum + v * LANES<W>)));
                }
            }
        }
    }
}

constexpr int MOST_VECTORS = 8;  // of a block: so many sums and a factor fit into the 16 registers

// Calls block(channel, std::integral_constant<int, NV>) for the blocks of a row.
template <typename W, int NV, typename Block>
void rest_of_row(int64_t channel, int64_t num_vectors, const Block& block) {
    if (num_vectors == NV) {
        block(channel, std::integral_constant<int, NV>());
    } else if constexpr (NV > 1) {
        rest_of_row<W, NV - 1>(channel, num_vectors, block);
    }
}

template <typename W, typename Block>
void for_blocks(int64_t width, const Block& block) {
    int64_t channel = 0;
    for (; width - channel > MOST_VECTORS * LANES<W>; channel += MOST_VECTORS * LANES<W>) {
        block(channel, std::integral_constant<int, MOST_VECTORS>());
    }
    rest_of_row<W, MOST_VECTORS>(channel, (width - channel) / LANES<W>, block);
}

// out[width] += sum of factor * row.
template <typename R, typename W>
void add_rows(const SampleRows<R, W>* sample_rows, int64_t count, int64_t width, W* out) {
    for_blocks<W>(width, [&](int64_t channel, auto vectors) {
        add_block<decltype(vectors)::value>(sample_rows, count, channel, out);
    });
}

// dots[count][NUM_CORNERS] = grad_out . row and, if scatter, grad += factor * grad_out.
template <typename R, typename W>
void pull_rows(
    const SampleRows<R, W>* sample_rows, int64_t count, int64_t width, const W* grad_out, bool scatter, W* dots
) {
    std::fill_n(dots, count * NUM_CORNERS, W(0));
    for_blocks<W>(width, [&](int64_t channel, auto vectors) {
        constexpr int NV = decltype(vectors)::value;
        if (scatter) {
            pull_block<NV, true>(sample_rows, count, channel, grad_out, dots);
        } else {
            pull_block<NV, false>(sample_rows, count, channel, grad_out, dots);
        }
    });
}

}  // namespace mmfs
