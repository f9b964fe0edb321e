// A group of LANES neighbouring threads of a warp works on one head of one row. Of a batch of LANES samples each lane
// places one; then the lanes share out the channels, and every lane gathers all samples of the batch.
//
// A lane owns CHUNKS vectors of VECTOR channels: channels (chunk * LANES + lane) * VECTOR and following.

#pragma once

#include "memory.cuh"

namespace mmfs {

constexpr unsigned WHOLE_WARP = 0xffffffffu;
constexpr int WARP = 32;

MMFS_DEVICE int warp_max(int x) {
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        x = max(x, __shfl_xor_sync(WHOLE_WARP, x, distance));
    }
    return x;
}

template <int LANES, typename W>
MMFS_DEVICE W group_max(W x) {
#pragma unroll
    for (int distance = LANES / 2; distance > 0; distance /= 2) {
        const W other = __shfl_xor_sync(WHOLE_WARP, x, distance);
        x = x >= other ? x : other;
    }
    return x;
}

template <int LANES, typename W>
MMFS_DEVICE W group_sum(W x) {
#pragma unroll
    for (int distance = LANES / 2; distance > 0; distance /= 2) {
        x += __shfl_xor_sync(WHOLE_WARP, x, distance);
    }
    return x;
}

// ---------------------------------------------------------------------------------------------------------------------
// Where things are

struct Level {
    int height;
    int width;
    int first_pixel;  // in the image
};

MMFS_DEVICE int64 first_pixel_of(const Arguments& arguments, int64 image) {
    if (arguments.image_planes != nullptr) {
        return load(arguments.image_planes + image * arguments.num_levels * 3 + 2);
    }
    return image * arguments.pixels_per_image;
}

MMFS_DEVICE Level level_of(const Arguments& arguments, int64 image, int level) {
    if (arguments.image_planes != nullptr) {
        const int64* plane = arguments.image_planes + (image * arguments.num_levels + level) * 3;
        const int64 first_pixel = load(plane + 2) - first_pixel_of(arguments, image);
        return {static_cast<int>(load(plane)), static_cast<int>(load(plane + 1)), static_cast<int>(first_pixel)};
    }
    int first_pixel = 0;
    for (int before = 0; before < level; ++before) {
        first_pixel += static_cast<int>(arguments.heights[before]) * static_cast<int>(arguments.widths[before]);
    }
    return {static_cast<int>(arguments.heights[level]), static_cast<int>(arguments.widths[level]), first_pixel};
}

// What a row sees. An age counts from 1: back from the newest image of a range, or along the slots of a list.
struct Visible {
    int64 last;   // of a range, one past the newest image; 0 for none
    int count;    // ages; in a list, those up to the last image
    bool inside;  // false: an image is not in the bank. The row then gets NaN: a launch cannot raise.
};

// Sizes per image that do not fit value are passed as -1.
MMFS_DEVICE bool images_fit(const Arguments& arguments) {
    return arguments.image_planes == nullptr || arguments.num_images == 0 || load(arguments.image_planes) > 0;
}

// Nothing is computed with a range before it is known to lie in the bank: the difference of any two numbers may not fit.

MMFS_DEVICE Visible list_of(const Arguments& arguments, int64 row) {
    int count = 0;
    for (int slot = 0; slot < static_cast<int>(arguments.num_slots); ++slot) {
        const int64 image = load(arguments.image_indices + row * arguments.num_slots + slot);
        if (image < -1 || image >= arguments.num_images || (image >= 0 && !images_fit(arguments))) {
            return {0, 0, false};
        }
        count = image >= 0 ? slot + 1 : count;
    }
    return {0, count, true};
}

MMFS_DEVICE Visible visible_of(const Arguments& arguments, int64 row) {
    if (arguments.image_indices != nullptr) {
        return list_of(arguments, row);
    }
    const int64 first = load(arguments.visible + row * 2);
    const int64 last = load(arguments.visible + row * 2 + 1);
    if (last <= first) {
        return {0, 0, true};
    }
    if (first < 0 || last > arguments.num_images || !images_fit(arguments)) {
        return {0, 0, false};
    }
    return {last, static_cast<int>(last - first), true};
}

// The image of an age of a row; -1 for a slot without one.
MMFS_DEVICE int64 image_of(const Arguments& arguments, int64 row, const Visible& visible, int age) {
    if (arguments.image_indices != nullptr) {
        return load(arguments.image_indices + row * arguments.num_slots + age - 1);
    }
    return visible.last - age;
}

// Images older than a table take its last row.
MMFS_DEVICE int64 row_of_age(int age, int64 num_ages) { return min(static_cast<int64>(age), num_ages) - 1; }

// index counts over levels and points.
template <typename W>
MMFS_DEVICE W mmfs_attention_logit(const Arguments& arguments, int64 row, int head, int age, int index) {
    const int64 samples = arguments.num_levels * arguments.num_points;
    W logit = read<W>(arguments.logits, (row * arguments.num_heads + head) * samples + index);
    if (arguments.logit_table.data != nullptr) {
        const int64 table_row = row_of_age(age, arguments.num_logit_ages);
        logit += read<W>(arguments.logit_table, (table_row * arguments.num_heads + head) * samples + index);
    }
    return logit;
}

template <typename W>
struct Location {
    W x;
    W y;
};

// index counts over levels and points.
template <typename W>
MMFS_DEVICE Location<W> mmfs_attention_location(const Arguments& arguments, int64 row, int head, int age, int index) {
    const int num_points = static_cast<int>(arguments.num_points);
    const int offsets = static_cast<int>(arguments.offset_levels) * num_points;  // of a row and head
    const int own_offset = index % offsets;  // the same on every level if there are as many as points
    const int64 offset = ((row * arguments.num_heads + head) * offsets + own_offset) * 2;
    W x = read<W>(arguments.offsets, offset);
    W y = read<W>(arguments.offsets, offset + 1);
    if (arguments.offset_table.data != nullptr) {
        const int64 table_row = row_of_age(age, arguments.num_offset_ages);
        const int64 entry = ((table_row * arguments.num_heads + head) * offsets + own_offset) * 2;
        x += read<W>(arguments.offset_table, entry);
        y += read<W>(arguments.offset_table, entry + 1);
    }
    int64 point = row;
    if (arguments.image_indices != nullptr) {
        point = row * arguments.num_slots + age - 1;
        point = point * arguments.point_levels + (arguments.point_levels == 1 ? 0 : index / num_points);
        point = point * arguments.point_points + (arguments.point_points == 1 ? 0 : index % num_points);
    }
    return {read<W>(arguments.points, point * 2) + x, read<W>(arguments.points, point * 2 + 1) + y};
}

// Location index of a row and head of ms_deform_attn, which counts over levels and points.
template <typename W>
MMFS_DEVICE Location<W> ms_deform_attn_location(const Arguments& arguments, int64 row, int head, int index) {
    const int64 samples = arguments.num_levels * arguments.num_points;
    const int64 location = ((row * arguments.num_heads + head) * samples + index) * 2;
    return {read<W>(arguments.locations, location), read<W>(arguments.locations, location + 1)};
}

// ---------------------------------------------------------------------------------------------------------------------
// A batch of samples in shared memory

struct alignas(16) Pixels {
    int pixel[NUM_CORNERS];  // in the image, or UNTOUCHED
};

template <typename W>
struct alignas(16) Shares {
    W share[NUM_CORNERS];
};

template <typename W>
struct Batch {
    SharedArray<Pixels> pixels;
    SharedArray<Shares<W>> shares;

    MMFS_DEVICE void put(int slot, const Sample<W>& sample, int first_pixel, W weight) const {
        Pixels pixels_here;
        Shares<W> shares_here;
#pragma unroll
        for (int corner = 0; corner < NUM_CORNERS; ++corner) {
            const int pixel = sample.pixel[corner];
            pixels_here.pixel[corner] = pixel == UNTOUCHED ? UNTOUCHED : first_pixel + pixel;
            shares_here.share[corner] = sample.share[corner] * weight;
        }
        pixels[slot] = pixels_here;
        shares[slot] = shares_here;
    }
};

template <typename W>
MMFS_DEVICE Batch<W> take_batch(SharedMemory& memory) {
    const int slots = static_cast<int>(blockDim.x);
    const SharedArray<Pixels> pixels = memory.take<Pixels>(slots);
    return {pixels, memory.take<Shares<W>>(slots)};
}

template <typename W>
MMFS_DEVICE void place_nothing(Sample<W>& sample) {
    // Far outside the level: touches no pixel.
    place_sample<W>(-2, -2, 1, 1, sample);
}

// ---------------------------------------------------------------------------------------------------------------------
// The channels of a lane

template <typename T, int VECTOR, int LANES, int CHUNKS>
struct Channels {
    using W = Wide<T>;
    W wide[CHUNKS][VECTOR];

    MMFS_DEVICE void clear() {
#pragma unroll
        for (int chunk = 0; chunk < CHUNKS; ++chunk) {
#pragma unroll
            for (int i = 0; i < VECTOR; ++i) {
                wide[chunk][i] = 0;
            }
        }
    }

    // Calls visit(chunk, first channel) for the chunks that this lane has.
    template <typename Visit>
    static MMFS_DEVICE void each_chunk(int lane, int64 num_channels, Visit visit) {
#pragma unroll
        for (int chunk = 0; chunk < CHUNKS; ++chunk) {
            const int channel = (chunk * LANES + lane) * VECTOR;
            if (channel < num_channels) {
                visit(chunk, channel);
            }
        }
    }

    MMFS_DEVICE void scale(W factor) {
#pragma unroll
        for (int chunk = 0; chunk < CHUNKS; ++chunk) {
#pragma unroll
            for (int i = 0; i < VECTOR; ++i) {
                wide[chunk][i] *= factor;
            }
        }
    }

    // Adds factor times sums of type W, which need not be aligned to a vector.
    MMFS_DEVICE void add_part(const W* part, W factor, int lane, int64 num_channels) {
        each_chunk(lane, num_channels, [&](int chunk, int channel) {
#pragma unroll
            for (int i = 0; i < VECTOR; ++i) {
                wide[chunk][i] += factor * load(part + channel + i);
            }
        });
    }

    // Adds factor times a row of channels.
    template <typename U>
    MMFS_DEVICE void add(const U* row, W factor, int lane, int64 num_channels) {
        each_chunk(lane, num_channels, [&](int chunk, int channel) {
            W loaded[VECTOR];
            load_vector<VECTOR>(row + channel, loaded);
#pragma unroll
            for (int i = 0; i < VECTOR; ++i) {
                wide[chunk][i] += factor * loaded[i];
            }
        });
    }
};

// The block's groups: `row` counts over B*Q, one row a group; blockIdx.y is the head.
template <int LANES>
struct Place {
    int lane;
    int group;
    int64 row;
    int head;
    bool active;

    MMFS_DEVICE explicit Place(const Arguments& arguments) {
        lane = static_cast<int>(threadIdx.x) % LANES;
        group = static_cast<int>(threadIdx.x) / LANES;
        row = static_cast<int64>(blockIdx.x) * (static_cast<int>(blockDim.x) / LANES) + group;
        head = static_cast<int>(blockIdx.y);
        active = row < arguments.num_rows;
    }

    MMFS_DEVICE int64 row_and_head(const Arguments& arguments) const { return row * arguments.num_heads + head; }
};

}  // namespace mmfs
