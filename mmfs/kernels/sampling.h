// The arithmetic that every backend shares: where a bilinear sample lies, how it depends on its location, and a softmax
// that is computed in one pass and can be split.
//
// Compiles as C++17, with nvcc and with NVRTC. T is the type of accumulation: float, or double for double values.
// Indices inside a level are int; a caller adds them to a 64-bit offset of the level.

#pragma once

#if defined(__CUDACC__)
#define MMFS_FN __host__ __device__ __forceinline__
#else
#define MMFS_FN inline
#endif

#if !defined(__CUDACC_RTC__)
#include <cmath>
#include <limits>
#endif

namespace mmfs {

// NVRTC has these functions without a header, in the global namespace.
#if defined(__CUDACC_RTC__)
MMFS_FN float exp_of(float x) { return ::expf(x); }
MMFS_FN double exp_of(double x) { return ::exp(x); }
MMFS_FN float log_of(float x) { return ::logf(x); }
MMFS_FN double log_of(double x) { return ::log(x); }
MMFS_FN float floor_of(float x) { return ::floorf(x); }
MMFS_FN double floor_of(double x) { return ::floor(x); }
#else
MMFS_FN float exp_of(float x) { return std::exp(x); }
MMFS_FN double exp_of(double x) { return std::exp(x); }
MMFS_FN float log_of(float x) { return std::log(x); }
MMFS_FN double log_of(double x) { return std::log(x); }
MMFS_FN float floor_of(float x) { return std::floor(x); }
MMFS_FN double floor_of(double x) { return std::floor(x); }
#endif

// A product that is rounded before anything is added to it. A fused multiply-add may put a location that lies on the
// border of two cells into the other cell, whose slope is a different one: backends would disagree there.
#if defined(__CUDA_ARCH__)
MMFS_FN float rounded_product(float a, float b) { return __fmul_rn(a, b); }
MMFS_FN double rounded_product(double a, double b) { return __dmul_rn(a, b); }
#else
// On a host this needs -ffp-contract=off: a compiler for a machine with fused multiply-add fuses across functions.
MMFS_FN float rounded_product(float a, float b) { return a * b; }
MMFS_FN double rounded_product(double a, double b) { return a * b; }
#endif

template <typename T>
MMFS_FN T minus_infinity();
#if defined(__CUDA_ARCH__)
template <>
MMFS_FN float minus_infinity<float>() {
    return __uint_as_float(0xff800000u);
}
template <>
MMFS_FN double minus_infinity<double>() {
    return __longlong_as_double(0xfff0000000000000);
}
#else
template <typename T>
MMFS_FN T minus_infinity() {
    return -std::numeric_limits<T>::infinity();
}
#endif

template <typename T>
MMFS_FN T not_a_number() {
    return minus_infinity<T>() - minus_infinity<T>();
}

// ---------------------------------------------------------------------------------------------------------------------
// One sample of one level

enum Corner { UPPER_LEFT = 0, UPPER_RIGHT = 1, LOWER_LEFT = 2, LOWER_RIGHT = 3 };
constexpr int NUM_CORNERS = 4;
constexpr int UNTOUCHED = -1;

template <typename T>
struct Sample {
    // row * width + column of the four pixels around the location; UNTOUCHED outside the level. Such a corner is not
    // read: zero times a value that is not finite would be NaN.
    int pixel[NUM_CORNERS];
    T share[NUM_CORNERS];  // bilinear weights; 0 where UNTOUCHED
    T right;               // from the left pixels to the location, 0 to 1
    T below;               // from the upper pixels to the location, 0 to 1
};

// The sample at (x, y), 0 to 1 across a level of height x width pixels: align_corners=False with padding_mode="zeros" of
// grid_sample. False if it touches no pixel, also for a location that is not finite: all corners are then UNTOUCHED, so
// its value and its gradient are zero.
template <typename T>
MMFS_FN bool place_sample(T x, T y, int height, int width, Sample<T>& sample) {
    const T column = rounded_product(x, static_cast<T>(width)) - static_cast<T>(0.5);
    const T row = rounded_product(y, static_cast<T>(height)) - static_cast<T>(0.5);
    // Every comparison is false for NaN, so a location that is inside is finite, and its pixels fit an int.
    const bool inside = column > static_cast<T>(-1) && column < static_cast<T>(width) && row > static_cast<T>(-1) &&
                        row < static_cast<T>(height);
    if (!inside) {
        for (int corner = 0; corner < NUM_CORNERS; ++corner) {
            sample.pixel[corner] = UNTOUCHED;
            sample.share[corner] = 0;
        }
        sample.right = 0;
        sample.below = 0;
        return false;
    }
    const T left_edge = floor_of(column);
    const T upper_edge = floor_of(row);
    const int left = static_cast<int>(left_edge);
    const int upper = static_cast<int>(upper_edge);
    const T right = column - left_edge;
    const T below = row - upper_edge;
    const T to_right = left_edge + 1 - column;
    const T to_lower = upper_edge + 1 - row;
    const bool left_in = left >= 0;
    const bool right_in = left + 1 < width;
    const bool upper_in = upper >= 0;
    const bool lower_in = upper + 1 < height;
    const int first = upper * width + left;
    sample.pixel[UPPER_LEFT] = left_in && upper_in ? first : UNTOUCHED;
    sample.pixel[UPPER_RIGHT] = right_in && upper_in ? first + 1 : UNTOUCHED;
    sample.pixel[LOWER_LEFT] = left_in && lower_in ? first + width : UNTOUCHED;
    sample.pixel[LOWER_RIGHT] = right_in && lower_in ? first + width + 1 : UNTOUCHED;
    sample.share[UPPER_LEFT] = left_in && upper_in ? to_right * to_lower : 0;
    sample.share[UPPER_RIGHT] = right_in && upper_in ? right * to_lower : 0;
    sample.share[LOWER_LEFT] = left_in && lower_in ? to_right * below : 0;
    sample.share[LOWER_RIGHT] = right_in && lower_in ? right * below : 0;
    sample.right = right;
    sample.below = below;
    return true;
}

// A linear function of the sample, from the same function of its corners (0 where UNTOUCHED): the sample itself from the
// pixels, or its product with a gradient from their products.
template <typename T>
MMFS_FN T interpolate(const Sample<T>& sample, const T of_corner[NUM_CORNERS]) {
    T sum = 0;
    for (int corner = 0; corner < NUM_CORNERS; ++corner) {
        sum += sample.share[corner] * of_corner[corner];
    }
    return sum;
}

// Derivatives of interpolate() with respect to x and y of the location, 0 to 1 across the level.
template <typename T>
MMFS_FN T slope_x(const Sample<T>& sample, const T of_corner[NUM_CORNERS], int width) {
    const T upper = of_corner[UPPER_RIGHT] - of_corner[UPPER_LEFT];
    const T lower = of_corner[LOWER_RIGHT] - of_corner[LOWER_LEFT];
    return ((1 - sample.below) * upper + sample.below * lower) * static_cast<T>(width);
}

template <typename T>
MMFS_FN T slope_y(const Sample<T>& sample, const T of_corner[NUM_CORNERS], int height) {
    const T left = of_corner[LOWER_LEFT] - of_corner[UPPER_LEFT];
    const T right = of_corner[LOWER_RIGHT] - of_corner[UPPER_RIGHT];
    return ((1 - sample.right) * left + sample.right * right) * static_cast<T>(height);
}

// ---------------------------------------------------------------------------------------------------------------------
// Softmax in one pass. A sum over entries, scaled by exp(-peak), is kept beside the state and rescaled with it.

template <typename T>
struct Softmax {
    T peak;   // largest logit so far; minus infinity before the first
    T total;  // sum of exp(logit - peak)
};

template <typename T>
MMFS_FN Softmax<T> empty_softmax() {
    return {minus_infinity<T>(), 0};
}

// exp(logit - peak); 0 for a logit of minus infinity, also where the peak is minus infinity.
template <typename T>
MMFS_FN T exp_below(T logit, T peak) {
    return logit == minus_infinity<T>() ? 0 : exp_of(logit - peak);
}

// The two states as one. The sums kept beside them are to be multiplied by scale_one and scale_other, and added.
template <typename T>
MMFS_FN Softmax<T> merge(const Softmax<T>& one, const Softmax<T>& other, T& scale_one, T& scale_other) {
    // A NaN in either peak makes the total NaN.
    const T peak = one.peak >= other.peak ? one.peak : other.peak;
    scale_one = exp_below(one.peak, peak);
    scale_other = exp_below(other.peak, peak);
    return {peak, one.total * scale_one + other.total * scale_other};
}

// Adds an entry and returns its factor. The sums kept so far are to be multiplied by scale.
template <typename T>
MMFS_FN T add_logit(Softmax<T>& softmax, T logit, T& scale) {
    T factor;
    softmax = merge(softmax, Softmax<T>{logit, 1}, scale, factor);
    return factor;
}

// log(sum of exp(logit)); minus infinity if there was no entry.
template <typename T>
MMFS_FN T log_sum_exp(const Softmax<T>& softmax) {
    return softmax.total == 0 ? minus_infinity<T>() : softmax.peak + log_of(softmax.total);
}

// Weight of an entry in a finished softmax: NaN where the softmax is, also for a logit of minus infinity.
template <typename T>
MMFS_FN T weight_of(T logit, T lse) {
    const bool is_nan = lse != lse;
    return is_nan ? lse : exp_below(logit, lse);
}

// Weight of null in a finished softmax. Without entries it is 1, also in a softmax without null.
template <typename T>
MMFS_FN T null_weight(bool has_null, T null_logit, T lse) {
    if (lse == minus_infinity<T>()) {
        return 1;
    }
    return has_null ? exp_below(null_logit, lse) : 0 * lse;  // NaN where the softmax is
}

}  // namespace mmfs
