// What a layer of MMFS computes around its sampling, for a few tokens in float32: its norm, and products of matrices with
// a vector. Larger calls are products of matrices, which libraries compute better.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "cpu_rows.h"

namespace mmfs {

// x -> weight x + bias.
struct LinearMap {
    const float* weight;  // [rows, num_inputs]
    const float* bias;    // [rows]
    int64_t num_inputs;
};

inline float lane_sum(Vector<float> vector) {
    float sum = 0;
    for (int lane = 0; lane < LANES<float>; ++lane) {
        sum += vector[lane];
    }
    return sum;
}

// out = x / sqrt(|x|^2 + least_square) with x = hidden + attended, where attended is null or of as many numbers.
inline void normalise(const float* hidden, const float* attended, int64_t count, double least_square, float* out) {
    if (attended == nullptr) {
        std::copy_n(hidden, count, out);
    } else {
        for (int64_t i = 0; i < count; ++i) {
            out[i] = hidden[i] + attended[i];
        }
    }
    Vector<float> squares = {};
    int64_t i = 0;
    for (; i + LANES<float> <= count; i += LANES<float>) {
        const Vector<float> here = load(out + i);
        squares = multiply_add(here, here, squares);
    }
    float square = lane_sum(squares);
    for (; i < count; ++i) {
        square += out[i] * out[i];
    }
    const float length = std::sqrt(square + static_cast<float>(least_square));
    for (int64_t j = 0; j < count; ++j) {
        out[j] /= length;
    }
}

// out = the rows [first, first + num_rows) of the map of x, plus what is added: null, or a number for each.
inline void multiply(
    const LinearMap& map, const float* x, int64_t first, int64_t num_rows, const float* added, float* out
) {
    for (int64_t done = 0; done < num_rows; done += NUM_CORNERS) {
        const float* rows[NUM_CORNERS];  // behind the end, the last one again
        for (int64_t k = 0; k < NUM_CORNERS; ++k) {
            rows[k] = map.weight + (first + std::min(done + k, num_rows - 1)) * map.num_inputs;
        }
        Vector<float> products[NUM_CORNERS] = {};
        int64_t i = 0;
        for (; i + LANES<float> <= map.num_inputs; i += LANES<float>) {
            const Vector<float> here = load(x + i);
            for (int k = 0; k < NUM_CORNERS; ++k) {
                products[k] = multiply_add(load(rows[k] + i), here, products[k]);
            }
        }
        float sums[NUM_CORNERS] = {};
        add_lane_sums<float>(products, sums);
        for (; i < map.num_inputs; ++i) {
            for (int k = 0; k < NUM_CORNERS; ++k) {
                sums[k] += rows[k][i] * x[i];
            }
        }
        for (int64_t k = 0; k < std::min<int64_t>(NUM_CORNERS, num_rows - done); ++k) {
            out[done + k] = sums[k] + map.bias[first + done + k] + (added == nullptr ? 0.0f : added[done + k]);
        }
    }
}

}  // namespace mmfs
