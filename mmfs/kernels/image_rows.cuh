// For kernels whose block owns a part of one image: what sees the image, and where its samples fall in it.
//
// An entry is a row or, where rows have lists of images, a slot of a list: entries count over rows, then slots.

#pragma once

#include "group.cuh"

namespace mmfs {

MMFS_DEVICE int64 row_of(const Arguments& arguments, int64 entry) {
    return arguments.num_slots == 1 ? entry : entry / arguments.num_slots;
}

// A row of mmfs_attention sees the images of its range or list; of ms_deform_attn, image b is seen by the rows of batch b.
template <bool IS_MMFS_ATTENTION>
MMFS_DEVICE int age_of(const Arguments& arguments, int64 entry, int64 image) {
    if constexpr (IS_MMFS_ATTENTION) {
        if (arguments.image_indices != nullptr) {
            const int64 row = row_of(arguments, entry);
            const bool seen =
                load(arguments.image_indices + entry) == image && visible_of(arguments, row).inside;
            return seen ? static_cast<int>(entry - row * arguments.num_slots) + 1 : 0;
        }
        const Visible visible = visible_of(arguments, entry);
        const int64 age = visible.last - image;
        return age >= 1 && age <= visible.count ? static_cast<int>(age) : 0;  // 0: not seen
    } else {
        return 1;
    }
}

// Those entries among blockDim.x neighbours that see an image, in their order. Every block has its own list.
struct SeeingEntries {
    SharedArray<int> entries;  // counted from the first of the neighbours
    SharedArray<int> counts;   // of each warp

    // Writes the list into entries and returns its length. All threads call it.
    template <bool IS_MMFS_ATTENTION>
    MMFS_DEVICE int find(const Arguments& arguments, int64 first, int64 end, int64 image) const {
        const int thread = static_cast<int>(threadIdx.x);
        const int lane = thread % WARP;
        const bool seen = first + thread < end && age_of<IS_MMFS_ATTENTION>(arguments, first + thread, image) >= 1;
        const unsigned seen_in_warp = __ballot_sync(WHOLE_WARP, seen);
        if (lane == 0) {
            counts[thread / WARP] = __popc(seen_in_warp);
        }
        __syncthreads();
        int before = 0;
        int total = 0;
        for (int warp = 0; warp < static_cast<int>(blockDim.x) / WARP; ++warp) {
            before += warp < thread / WARP ? counts[warp] : 0;
            total += counts[warp];
        }
        if (seen) {
            entries[before + __popc(seen_in_warp & ((1u << lane) - 1))] = thread;
        }
        __syncthreads();
        return total;
    }
};

MMFS_DEVICE SeeingEntries take_seeing_entries(SharedMemory& memory) {
    const SharedArray<int> entries = memory.take<int>(static_cast<int>(blockDim.x));
    return {entries, memory.take<int>(static_cast<int>(blockDim.x) / WARP)};
}

// Sample `index`, which counts over levels and points, of an entry that sees the image. Returns the sample's weight.
template <typename T, bool IS_MMFS_ATTENTION>
MMFS_DEVICE Wide<T> place_in_image(const Arguments& arguments, int64 entry, int head, int64 image, int index,
                                   Sample<Wide<T>>& sample, Level& level) {
    using W = Wide<T>;
    const int64 row = row_of(arguments, entry);
    level = level_of(arguments, image, index / static_cast<int>(arguments.num_points));
    if constexpr (IS_MMFS_ATTENTION) {
        const int age = age_of<IS_MMFS_ATTENTION>(arguments, entry, image);
        const W lse = load(static_cast<const W*>(arguments.lse) + row * arguments.num_heads + head);
        const Location<W> location = mmfs_attention_location<W>(arguments, row, head, age, index);
        place_sample(location.x, location.y, level.height, level.width, sample);
        return weight_of(mmfs_attention_logit<W>(arguments, row, head, age, index), lse);
    } else {
        const int64 samples = arguments.num_levels * arguments.num_points;
        const Location<W> location = ms_deform_attn_location<W>(arguments, row, head, index);
        place_sample(location.x, location.y, level.height, level.width, sample);
        return read<W>(arguments.weights, (row * arguments.num_heads + head) * samples + index);
    }
}

// What a block owns: pixels [begin, end) of the bank. If all images have the same sizes, a tile lies within one image.
struct Tile {
    int64 begin;
    int64 end;
    int64 first_image;  // that may have pixels here
    int64 last_image;   // one past the last such image
};

MMFS_DEVICE Tile tile_of(const Arguments& arguments) {
    const int64 number = static_cast<int64>(blockIdx.x);
    const int64 size = arguments.tile_pixels;
    if (arguments.image_planes != nullptr) {
        return {number * size, min((number + 1) * size, arguments.num_pixels), 0, arguments.num_images};
    }
    const int64 tiles = (arguments.pixels_per_image + size - 1) / size;
    const int64 image = number / tiles;
    const int64 begin = number % tiles * size;
    const int64 first = image * arguments.pixels_per_image;
    return {first + begin, first + min(begin + size, arguments.pixels_per_image), image, image + 1};
}

// Whether an image has pixels in the tile; never if sizes per image do not fit value, see images_fit().
MMFS_DEVICE bool touches(const Arguments& arguments, const Tile& tile, int64 image) {
    if (!images_fit(arguments)) {
        return false;
    }
    const int64 begin = first_pixel_of(arguments, image);
    const int64 end = image + 1 < arguments.num_images ? first_pixel_of(arguments, image + 1) : arguments.num_pixels;
    return end > tile.begin && begin < tile.end;
}

// The entries that may see an image.
struct EntryRange {
    int64 begin;
    int64 end;
};

template <bool IS_MMFS_ATTENTION>
MMFS_DEVICE EntryRange entries_of_image(const Arguments& arguments, int64 image) {
    if constexpr (IS_MMFS_ATTENTION) {
        return {0, arguments.num_rows * arguments.num_slots};
    } else {
        return {image * arguments.num_queries, (image + 1) * arguments.num_queries};
    }
}

}  // namespace mmfs
