// The gradient of value in a fixed order: two runs give the same bits. Letters as in arguments.cuh.
//
// A block owns tile_pixels pixels of the bank, one head and 32 channels, a channel a lane. It walks all rows that can
// reach its pixels. Each pixel belongs to one warp of the block, which adds to it in the order of rows and samples.

#include "group.cuh"

namespace mmfs {

template <typename W>
struct OrderedSamples {
    SharedArray<Pixels> pixels;  // in the tile, or UNTOUCHED
    SharedArray<Shares<W>> shares;
};

// Places sample `index` of a row in one image of the bank; its pixels are counted from first_pixel of the bank.
template <typename W>
MMFS_DEVICE void put_in_tile(const OrderedSamples<W>& ordered, int slot, const Sample<W>& sample, int64 first_pixel,
                             W weight, int64 tile_begin, int64 tile_pixels) {
    Pixels pixels;
    Shares<W> shares;
    for (int corner = 0; corner < NUM_CORNERS; ++corner) {
        const int64 in_tile = first_pixel + sample.pixel[corner] - tile_begin;
        const bool owned = sample.pixel[corner] != UNTOUCHED && in_tile >= 0 && in_tile < tile_pixels;
        pixels.pixel[corner] = owned ? static_cast<int>(in_tile) : UNTOUCHED;
        shares.share[corner] = sample.share[corner] * weight;
    }
    ordered.pixels[slot] = pixels;
    ordered.shares[slot] = shares;
}

template <typename T, bool FUSED>
MMFS_DEVICE void ordered_value_gradient(const Arguments& arguments) {
    using W = Wide<T>;
    const int thread = static_cast<int>(threadIdx.x);
    const int lane = thread % WARP;
    const int warp = thread / WARP;
    const int threads = static_cast<int>(blockDim.x);
    const int warps = threads / WARP;
    const int tile_pixels = static_cast<int>(arguments.tile_pixels);
    SharedMemory memory;
    const SharedArray<Pixels> pixels = memory.take<Pixels>(threads);
    const OrderedSamples<W> ordered{pixels, memory.take<Shares<W>>(threads)};
    const SharedArray<W> sums = memory.take<W>(tile_pixels * WARP);

    const int head = static_cast<int>(blockIdx.y);
    const int64 tile_begin = static_cast<int64>(blockIdx.x) * tile_pixels;
    const int64 tile_end = min(tile_begin + tile_pixels, arguments.num_pixels);
    const int64 channel = static_cast<int64>(blockIdx.z) * WARP + lane;
    const bool has_channel = channel < arguments.num_channels;
    const int num_points = static_cast<int>(arguments.num_points);
    const int samples = static_cast<int>(arguments.num_levels) * num_points;
    const T* grad_out = static_cast<const T*>(arguments.grad_out);
    for (int i = thread; i < tile_pixels * WARP; i += threads) {
        sums[i] = 0;
    }

    for (int64 image = 0; image < arguments.num_images; ++image) {
        const int64 image_begin = first_pixel_of(arguments, image);
        const int64 image_end =
            image + 1 < arguments.num_images ? first_pixel_of(arguments, image + 1) : arguments.num_pixels;
        if (image_end <= tile_begin || image_begin >= tile_end) {
            continue;
        }
        // The classic op's image b is seen by the rows of batch b.
        const int64 begin = FUSED ? 0 : image * arguments.num_queries * samples;
        const int64 end = FUSED ? arguments.num_rows * samples : begin + arguments.num_queries * samples;
        for (int64 first = begin; first < end; first += threads) {
            __syncthreads();  // everybody has read the batch before
            const int64 number = first + thread;
            Sample<W> sample;
            place_nothing(sample);
            W weight = 0;
            int64 level_begin = 0;
            if (number < end) {
                const int64 row = number / samples;
                const int index = static_cast<int>(number % samples);
                const Level level = level_of(arguments, image, index / num_points);
                level_begin = image_begin + level.first_pixel;
                if constexpr (FUSED) {
                    const Visible visible = visible_of(arguments, row);
                    const int64 age = visible.last - image;
                    if (age >= 1 && age <= visible.count) {
                        const W log_sum =
                            load(static_cast<const W*>(arguments.log_sums) + row * arguments.num_heads + head);
                        const int of_age = static_cast<int>(age);
                        weight = weight_of(fused_logit<W>(arguments, row, head, of_age, index), log_sum);
                        const Location<W> location =
                            fused_location<W>(arguments, row, head, of_age, index % num_points);
                        place_sample(location.x, location.y, level.height, level.width, sample);
                    }
                } else {
                    const Location<W> location = classic_location<W>(arguments, row, head, index);
                    place_sample(location.x, location.y, level.height, level.width, sample);
                    weight = read<W>(arguments.logits, (row * arguments.num_heads + head) * samples + index);
                }
            }
            put_in_tile(ordered, thread, sample, level_begin, weight, tile_begin, tile_pixels);
            __syncthreads();
            for (int slot = 0; slot < threads; ++slot) {
                const Pixels in_tile = ordered.pixels[slot];
                const Shares<W> shares = ordered.shares[slot];
                for (int corner = 0; corner < NUM_CORNERS; ++corner) {
                    const int pixel = in_tile.pixel[corner];
                    if (pixel != UNTOUCHED && pixel % warps == warp && has_channel) {
                        const int64 row = (first + slot) / samples;
                        const int64 entry = (row * arguments.num_heads + head) * arguments.num_channels + channel;
                        sums[pixel * WARP + lane] += shares.share[corner] * static_cast<W>(widen(load(grad_out + entry)));
                    }
                }
            }
        }
    }
    __syncthreads();
    T* grad_value = static_cast<T*>(arguments.grad_value);
    for (int pixel = warp; pixel < tile_end - tile_begin; pixel += warps) {
        if (has_channel) {
            const int64 entry = ((tile_begin + pixel) * arguments.num_heads + head) * arguments.num_channels + channel;
            store(grad_value + entry, narrowed<T>(sums[pixel * WARP + lane]));
        }
    }
}

}  // namespace mmfs
