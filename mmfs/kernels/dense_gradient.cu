// The gradient of value of mmfs_attention as a product of matrices on tensor cores, for small maps and half types.
// Letters as in arguments.cuh.
//
// The bilinear weights of 64 rows on the pixels of a tile form a matrix, mostly zeros, which a block builds in shared
// memory; transposed and multiplied with the gradient of the output, [rows, channels], it gives the tile's gradient. The
// product has many zeros in it, but tensor cores are faster by more than that. All sums are in a fixed order.
//
// Each weight is split into the sum of two numbers of the half type, so the product is as exact as one in float32. No
// weight of a softmax exceeds 1, so none overflows float16. Rows whose gradient of the output is not finite are summed
// without tensor cores: those would multiply it by zero, which is NaN, at pixels that the row does not touch.

#include "image_rows.cuh"
#include "matrix.cuh"

namespace mmfs {

constexpr int DENSE_THREADS = 256;                                  // as in plan.py, and the next two
constexpr int DENSE_ROWS = 64;                                      // at once
constexpr int DENSE_PIXELS = 384;                                   // of a tile
constexpr int DENSE_WARPS = DENSE_THREADS / WARP;
constexpr int WARP_TILES = DENSE_PIXELS / MATRIX_ROWS / DENSE_WARPS;  // of 16 pixels
// With these strides no two lanes of a fragment access the same bank of shared memory.
constexpr int WEIGHT_STRIDE = DENSE_PIXELS + 4;
MMFS_DEVICE constexpr int gradient_stride(int tiles) { return tiles * MATRIX_COLUMNS + 8; }

template <typename T>
MMFS_DEVICE unsigned pair_of(T low, T high) {
    return static_cast<unsigned>(low.bits) | static_cast<unsigned>(high.bits) << 16;
}

// The weights of rows of a list on the pixels of the tile: one thread for each row and level, so no two
// threads add to the same element.
template <typename T>
MMFS_DEVICE void scatter_weights(const Arguments& arguments, const SharedArray<float>& weights, const SeeingEntries& seeing,
                                 int first, int count, int64 first_entry, int64 image, const Tile& tile) {
    const int num_levels = static_cast<int>(arguments.num_levels);
    const int num_points = static_cast<int>(arguments.num_points);
    const int64 to_tile = first_pixel_of(arguments, image) - tile.begin;
    for (int item = static_cast<int>(threadIdx.x); item < count * num_levels; item += DENSE_THREADS) {
        const int row = item / num_levels;
        for (int point = 0; point < num_points; ++point) {
            Sample<float> sample;
            Level level;
            const float weight = place_in_image<T, true>(arguments, first_entry + seeing.entries[first + row],
                                                         static_cast<int>(blockIdx.y), image,
                                                         item % num_levels * num_points + point, sample, level);
#pragma unroll
            for (int corner = 0; corner < NUM_CORNERS; ++corner) {
                const int64 pixel = to_tile + level.first_pixel + sample.pixel[corner];
                if (sample.pixel[corner] != UNTOUCHED && pixel >= 0 && pixel < tile.end - tile.begin) {
                    weights[row * WEIGHT_STRIDE + static_cast<int>(pixel)] += weight * sample.share[corner];
                }
            }
        }
    }
}

template <typename T>
MMFS_DEVICE bool is_finite(T x) {
    return widen(x) - widen(x) == 0;
}

// Adds what tensor cores would add for `count` rows, but skips weights of zero.
template <typename T, int TILES>
MMFS_DEVICE void add_touched(float (&sums)[WARP_TILES][TILES][MATRIX_SUMS], const SharedArray<float>& weights,
                             const SharedArray<unsigned>& gradients, int count, int first_pixel, int lane) {
#pragma unroll 1
    for (int row = 0; row < count; ++row) {
#pragma unroll
        for (int i = 0; i < WARP_TILES; ++i) {
#pragma unroll
            for (int j = 0; j < TILES; ++j) {
#pragma unroll
                for (int k = 0; k < MATRIX_SUMS; ++k) {
                    const int pixel = first_pixel + i * MATRIX_ROWS + sum_row(lane, k);
                    const int column = j * MATRIX_COLUMNS + sum_column(lane, k);
                    const float weight = weights[row * WEIGHT_STRIDE + pixel];
                    const unsigned pair = gradients[row / 2 * gradient_stride(TILES) + column];
                    if (weight != 0) {
                        sums[i][j][k] += weight * widen(T{static_cast<unsigned short>(pair >> row % 2 * 16)});
                    }
                }
            }
        }
    }
}

// TILES: how many times 8 channels a block computes.
template <typename T, int TILES>
MMFS_DEVICE void dense_gradient(const Arguments& arguments) {
    constexpr int GRADIENT_STRIDE = gradient_stride(TILES);
    const int thread = static_cast<int>(threadIdx.x);
    const int lane = thread % WARP;
    const int first_pixel = thread / WARP * WARP_TILES * MATRIX_ROWS;  // of the warp, in the tile
    const int64 first_channel = static_cast<int64>(blockIdx.z) * TILES * MATRIX_COLUMNS;
    const Tile tile = tile_of(arguments);
    const int tile_size = static_cast<int>(tile.end - tile.begin);

    SharedMemory memory;
    const SeeingEntries seeing = take_seeing_entries(memory);
    const int64 num_entries = arguments.num_rows * arguments.num_slots;
    const SharedArray<float> weights = memory.take<float>(DENSE_ROWS * WEIGHT_STRIDE);  // [rows, pixels]
    // Two rows in each word, as tensor cores take them.
    const SharedArray<unsigned> gradients = memory.take<unsigned>(DENSE_ROWS / 2 * GRADIENT_STRIDE);
    float sums[WARP_TILES][TILES][MATRIX_SUMS];
#pragma unroll
    for (int i = 0; i < WARP_TILES; ++i) {
#pragma unroll
        for (int j = 0; j < TILES; ++j) {
#pragma unroll
            for (int k = 0; k < MATRIX_SUMS; ++k) {
                sums[i][j][k] = 0;
            }
        }
    }

    for (int64 image = tile.first_image; image < tile.last_image; ++image) {
        if (!touches(arguments, tile, image)) {
            continue;
        }
        for (int64 first_entry = 0; first_entry < num_entries; first_entry += DENSE_THREADS) {
            const int total = seeing.find<true>(arguments, first_entry, num_entries, image);
            for (int first = 0; first < total; first += DENSE_ROWS) {
                const int count = min(DENSE_ROWS, total - first);
                for (int i = thread; i < DENSE_ROWS * WEIGHT_STRIDE; i += DENSE_THREADS) {
                    weights[i] = 0;
                }
                bool finite = true;
                for (int i = thread; i < DENSE_ROWS / 2 * TILES * MATRIX_COLUMNS; i += DENSE_THREADS) {
                    const int column = i % (TILES * MATRIX_COLUMNS);
                    const int pair = i / (TILES * MATRIX_COLUMNS);
                    T of_row[2] = {};
#pragma unroll
                    for (int j = 0; j < 2; ++j) {
                        if (pair * 2 + j < count && first_channel + column < arguments.num_channels) {
                            const int64 row = row_of(arguments, first_entry + seeing.entries[first + pair * 2 + j]);
                            const int64 start = (row * arguments.num_heads + blockIdx.y) * arguments.num_channels;
                            const T* grad_out = static_cast<const T*>(arguments.grad_out);
                            of_row[j] = load(grad_out + start + first_channel + column);
                            finite = finite && is_finite(of_row[j]);
                        }
                    }
                    gradients[pair * GRADIENT_STRIDE + column] = pair_of(of_row[0], of_row[1]);
                }
                const bool all_finite = __syncthreads_or(!finite) == 0;
                scatter_weights<T>(arguments, weights, seeing, first, count, first_entry, image, tile);
                __syncthreads();
                if (!all_finite) {
                    add_touched<T, TILES>(sums, weights, gradients, count, first_pixel, lane);
                }
                for (int row = 0; all_finite && row < count; row += MATRIX_DEPTH) {
                    unsigned right[TILES][2];
#pragma unroll
                    for (int j = 0; j < TILES; ++j) {
#pragma unroll
                        for (int k = 0; k < 2; ++k) {
                            const int pair = row / 2 + right_pair(lane, k);
                            right[j][k] = gradients[pair * GRADIENT_STRIDE + j * MATRIX_COLUMNS + right_column(lane)];
                        }
                    }
#pragma unroll
                    for (int i = 0; i < WARP_TILES; ++i) {
                        unsigned high[4];
                        unsigned low[4];
#pragma unroll
                        for (int k = 0; k < 4; ++k) {
                            const int pixel = first_pixel + i * MATRIX_ROWS + left_row(lane, k);
                            const int at = (row + 2 * left_pair(lane, k)) * WEIGHT_STRIDE + pixel;
                            const float even = weights[at];
                            const float odd = weights[at + WEIGHT_STRIDE];
                            const T even_high = narrowed<T>(even);
                            const T odd_high = narrowed<T>(odd);
                            high[k] = pair_of(even_high, odd_high);
                            low[k] = pair_of(narrowed<T>(even - widen(even_high)), narrowed<T>(odd - widen(odd_high)));
                        }
#pragma unroll
                        for (int j = 0; j < TILES; ++j) {
                            multiply<T>(sums[i][j], high, right[j]);
                            multiply<T>(sums[i][j], low, right[j]);
                        }
                    }
                }
                __syncthreads();  // the next rows overwrite these
            }
        }
    }

    T* grad_value = static_cast<T*>(arguments.grad_value);
#pragma unroll
    for (int i = 0; i < WARP_TILES; ++i) {
#pragma unroll
        for (int j = 0; j < TILES; ++j) {
#pragma unroll
            for (int k = 0; k < MATRIX_SUMS; ++k) {
                const int pixel = first_pixel + i * MATRIX_ROWS + sum_row(lane, k);
                const int64 channel = first_channel + j * MATRIX_COLUMNS + sum_column(lane, k);
                if (pixel < tile_size && channel < arguments.num_channels) {
                    const int64 start = ((tile.begin + pixel) * arguments.num_heads + blockIdx.y) * arguments.num_channels;
                    store(grad_value + start + channel, narrowed<T>(sums[i][j][k]));
                }
            }
        }
    }
}

}  // namespace mmfs
