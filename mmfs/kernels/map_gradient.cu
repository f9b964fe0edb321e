// The gradient of value, accumulated in shared memory. Letters as in arguments.cuh.
//
// A block owns a tile of pixels of one image, one head and 32 * CHANNELS channels, CHANNELS of them a lane. It walks the
// rows that see the image. Each pixel belongs to one warp, which adds to it in the order of rows and samples: two runs
// give the same bits, no addition is atomic, and each pixel is written once, in the dtype of value.

#include "image_rows.cuh"

namespace mmfs {

constexpr int MAP_THREADS = 512;  // as in plan.py
constexpr int MAP_WARPS = MAP_THREADS / WARP;

// Neighbouring pixels belong to unrelated warps: samples lie close together, and all warps should have work.
MMFS_DEVICE int owner_of(int pixel) {
    return static_cast<int>(static_cast<unsigned>(pixel) * 2654435761u >> 16) % MAP_WARPS;
}

template <typename W, int CHANNELS>
struct alignas(CHANNELS * sizeof(W)) LaneChannels {
    W channel[CHANNELS];
};

// Two batches of as many samples as the block has threads, all of one image, which are used in turn: while one warp still
// adds the samples of one batch, another places those of the next. There is one barrier a batch.
template <typename W>
struct SampleBatches {
    SharedArray<Pixels> pixels;     // in the tile, or UNTOUCHED
    SharedArray<Shares<W>> shares;  // times the attention weight
    SharedArray<int> rows;          // counted from that of the first of the neighbours

    MMFS_DEVICE void put(int slot, const Sample<W>& sample, W weight, int64 to_tile, int64 tile_size) const {
        Pixels pixels_here;
        Shares<W> shares_here;
#pragma unroll
        for (int corner = 0; corner < NUM_CORNERS; ++corner) {
            const int64 in_tile = to_tile + sample.pixel[corner];
            const bool owned = sample.pixel[corner] != UNTOUCHED && in_tile >= 0 && in_tile < tile_size;
            pixels_here.pixel[corner] = owned ? static_cast<int>(in_tile) : UNTOUCHED;
            shares_here.share[corner] = sample.share[corner] * weight;
        }
        pixels[slot] = pixels_here;
        shares[slot] = shares_here;
    }
};

template <typename W>
MMFS_DEVICE SampleBatches<W> take_sample_batches(SharedMemory& memory) {
    const SharedArray<Pixels> pixels = memory.take<Pixels>(2 * MAP_THREADS);
    const SharedArray<Shares<W>> shares = memory.take<Shares<W>>(2 * MAP_THREADS);
    return {pixels, shares, memory.take<int>(2 * MAP_THREADS)};
}

// The gradient of the output at the channels that a lane owns, of the row that its warp adds.
template <typename T, int CHANNELS>
struct RowGradient {
    using W = Wide<T>;
    int64 row = -1;
    W channel[CHANNELS] = {};

    MMFS_DEVICE void read_row(const Arguments& arguments, int64 wanted, int head, int64 first_channel) {
        if (wanted == row) {
            return;
        }
        row = wanted;
        const int64 start = (row * arguments.num_heads + head) * arguments.num_channels;
#pragma unroll
        for (int i = 0; i < CHANNELS; ++i) {
            const int64 at = first_channel + i;
            const T* grad_out = static_cast<const T*>(arguments.grad_out);
            channel[i] = at < arguments.num_channels ? static_cast<W>(widen(load(grad_out + start + at))) : 0;
        }
    }
};

template <typename T, bool IS_MMFS_ATTENTION, int CHANNELS>
MMFS_DEVICE void map_gradient(const Arguments& arguments) {
    using W = Wide<T>;
    const int thread = static_cast<int>(threadIdx.x);
    const int lane = thread % WARP;
    const int warp = thread / WARP;
    const int head = static_cast<int>(blockIdx.y);
    const int64 first_channel = (static_cast<int64>(blockIdx.z) * WARP + lane) * CHANNELS;
    const int samples = static_cast<int>(arguments.num_levels * arguments.num_points);
    const Tile tile = tile_of(arguments);
    const int64 tile_size = tile.end - tile.begin;

    SharedMemory memory;
    const SeeingEntries seeing = take_seeing_entries(memory);
    const SampleBatches<W> batches = take_sample_batches<W>(memory);
    using Sums = LaneChannels<W, CHANNELS>;
    const SharedArray<Sums> sums = memory.take<Sums>(static_cast<int>(arguments.tile_pixels) * WARP);
    for (int pixel = warp; pixel < tile_size; pixel += MAP_WARPS) {
        Sums zero;
#pragma unroll
        for (int i = 0; i < CHANNELS; ++i) {
            zero.channel[i] = 0;
        }
        sums[pixel * WARP + lane] = zero;
    }

    RowGradient<T, CHANNELS> gradient;
    int batch = 0;  // where it begins: 0 or MAP_THREADS
    for (int64 image = tile.first_image; image < tile.last_image; ++image) {
        if (!touches(arguments, tile, image)) {
            continue;
        }
        const EntryRange range = entries_of_image<IS_MMFS_ATTENTION>(arguments, image);
        const int64 to_tile = first_pixel_of(arguments, image) - tile.begin;
        for (int64 first_entry = range.begin; first_entry < range.end; first_entry += MAP_THREADS) {
            const int total = seeing.find<IS_MMFS_ATTENTION>(arguments, first_entry, range.end, image) * samples;
            const int64 first_row = row_of(arguments, first_entry);
            for (int first = 0; first < total; first += MAP_THREADS) {
                batch = MAP_THREADS - batch;
                if (first + thread < total) {
                    const int64 entry = first_entry + seeing.entries[(first + thread) / samples];
                    Sample<W> sample;
                    Level level;
                    const W weight = place_in_image<T, IS_MMFS_ATTENTION>(arguments, entry, head, image,
                                                              (first + thread) % samples, sample, level);
                    batches.put(batch + thread, sample, weight, to_tile + level.first_pixel, tile_size);
                    batches.rows[batch + thread] = static_cast<int>(row_of(arguments, entry) - first_row);
                }
                __syncthreads();
                const int corners = min(MAP_THREADS, total - first) * NUM_CORNERS;
                for (int base = 0; base < corners; base += WARP) {
                    const int slot = batch + (base + lane) / NUM_CORNERS;
                    int pixel = UNTOUCHED;
                    W share = 0;
                    if (base + lane < corners) {
                        pixel = batches.pixels[slot].pixel[lane % NUM_CORNERS];
                        share = batches.shares[slot].share[lane % NUM_CORNERS];
                    }
                    const bool own = pixel != UNTOUCHED && owner_of(pixel) == warp;
                    for (unsigned left = __ballot_sync(WHOLE_WARP, own); left != 0; left &= left - 1) {
                        const int source = __ffs(static_cast<int>(left)) - 1;
                        const int to = __shfl_sync(WHOLE_WARP, pixel, source);
                        const W factor = __shfl_sync(WHOLE_WARP, share, source);
                        const int row = batches.rows[batch + (base + source) / NUM_CORNERS];
                        gradient.read_row(arguments, first_row + row, head, first_channel);
                        Sums sum = sums[to * WARP + lane];
#pragma unroll
                        for (int i = 0; i < CHANNELS; ++i) {
                            sum.channel[i] += factor * gradient.channel[i];
                        }
                        sums[to * WARP + lane] = sum;
                    }
                }
            }
            __syncthreads();  // the next rows overwrite the list
        }
    }
    __syncthreads();
    T* grad_value = static_cast<T*>(arguments.grad_value);
    for (int pixel = warp; pixel < tile_size; pixel += MAP_WARPS) {
        const Sums sum = sums[pixel * WARP + lane];
#pragma unroll
        for (int i = 0; i < CHANNELS; ++i) {
            if (first_channel + i < arguments.num_channels) {
                const int64 start = ((tile.begin + pixel) * arguments.num_heads + head) * arguments.num_channels;
                store(grad_value + start + first_channel + i, narrowed<T>(sum.channel[i]));
            }
        }
    }
}

}  // namespace mmfs
