// Forward of both ops. Letters as in arguments.cuh.

#include "group.cuh"

namespace mmfs {

// Adds the batch's samples, weight times bilinear, to the channels of each lane. All are of one image.
template <typename T, int VECTOR, int LANES, int CHUNKS>
MMFS_DEVICE void gather(const Arguments& arguments, const Batch<Wide<T>>& batch, const Place<LANES>& place, int64 image,
                        int count, Channels<T, VECTOR, LANES, CHUNKS>& sums) {
    if (count == 0) {
        return;
    }
    const int64 pixel_stride = arguments.num_heads * arguments.num_channels;
    const T* head = static_cast<const T*>(arguments.value) + first_pixel_of(arguments, image) * pixel_stride +
                    place.head * arguments.num_channels;
#pragma unroll 2
    for (int sample = 0; sample < count; ++sample) {
        const int slot = place.group * LANES + sample;
        const Pixels pixels = batch.pixels[slot];
        const Shares<Wide<T>> shares = batch.shares[slot];
#pragma unroll
        for (int corner = 0; corner < NUM_CORNERS; ++corner) {
            if (pixels.pixel[corner] != UNTOUCHED) {
                sums.add(head + pixels.pixel[corner] * pixel_stride, shares.share[corner], place.lane,
                         arguments.num_channels);
            }
        }
    }
}

// Where the sums of one split of a row and head are.
template <typename W>
MMFS_DEVICE W* part_of(const Arguments& arguments, int64 split, int64 row_and_head) {
    const int64 part = split * arguments.num_rows * arguments.num_heads + row_and_head;
    return static_cast<W*>(arguments.split_sums) + part * arguments.num_channels;
}

template <typename T, int VECTOR, int LANES, int CHUNKS>
MMFS_DEVICE void store_part(const Arguments& arguments, const Place<LANES>& place, int split,
                            const Channels<T, VECTOR, LANES, CHUNKS>& sums) {
    Wide<T>* part = part_of<Wide<T>>(arguments, split, place.row_and_head(arguments));
    sums.each_chunk(place.lane, arguments.num_channels, [&](int chunk, int channel) {
        for (int i = 0; i < VECTOR; ++i) {
            store(part + channel + i, sums.wide[chunk][i]);
        }
    });
}

template <typename T, int VECTOR, int LANES, int CHUNKS>
MMFS_DEVICE void store_out(const Arguments& arguments, const Place<LANES>& place,
                           const Channels<T, VECTOR, LANES, CHUNKS>& sums) {
    T* out = static_cast<T*>(arguments.out) + place.row_and_head(arguments) * arguments.num_channels;
    sums.each_chunk(place.lane, arguments.num_channels,
                    [&](int chunk, int channel) { store_vector<VECTOR>(out + channel, sums.wide[chunk]); });
}

// With blockIdx.z splits of the samples of a row, each writes its part, and add_splits finishes.
template <typename T, int VECTOR, int LANES, int CHUNKS>
MMFS_DEVICE void ms_deform_attn_forward(const Arguments& arguments) {
    using W = Wide<T>;
    SharedMemory memory;
    const Batch<W> batch = take_batch<W>(memory);
    const Place<LANES> place(arguments);
    const int samples = static_cast<int>(arguments.num_levels * arguments.num_points);
    const int64 image = place.row / arguments.num_queries;
    Channels<T, VECTOR, LANES, CHUNKS> sums;
    sums.clear();
    const int64 num_batches = (samples + LANES - 1) / LANES;
    const int split = static_cast<int>(blockIdx.z);
    const int begin = static_cast<int>(num_batches * split / arguments.num_splits) * LANES;
    const int end = static_cast<int>(num_batches * (split + 1) / arguments.num_splits) * LANES;
    for (int first = begin; first < end; first += LANES) {
        const int index = first + place.lane;
        Sample<W> sample;
        place_nothing(sample);
        Level level{1, 1, 0};
        W weight = 0;
        if (place.active && index < samples) {
            level = level_of(arguments, image, index / static_cast<int>(arguments.num_points));
            const Location<W> location = ms_deform_attn_location<W>(arguments, place.row, place.head, index);
            place_sample(location.x, location.y, level.height, level.width, sample);
            weight = read<W>(arguments.weights, place.row_and_head(arguments) * samples + index);
        }
        batch.put(static_cast<int>(threadIdx.x), sample, level.first_pixel, weight);
        __syncwarp();
        gather<T, VECTOR, LANES, CHUNKS>(arguments, batch, place, image, place.active ? min(LANES, samples - first) : 0,
                                         sums);
        __syncwarp();  // the next batch overwrites this one
    }
    if (!place.active) {
        return;
    }
    if (arguments.num_splits == 1) {
        store_out<T, VECTOR, LANES, CHUNKS>(arguments, place, sums);
    } else {
        store_part<T, VECTOR, LANES, CHUNKS>(arguments, place, split, sums);
    }
}

// Adds up what the splits of ms_deform_attn_forward wrote.
template <typename T, int VECTOR, int LANES, int CHUNKS>
MMFS_DEVICE void add_splits(const Arguments& arguments) {
    const Place<LANES> place(arguments);
    if (!place.active) {
        return;
    }
    Channels<T, VECTOR, LANES, CHUNKS> sums;
    sums.clear();
    for (int split = 0; split < arguments.num_splits; ++split) {
        sums.add_part(part_of<Wide<T>>(arguments, split, place.row_and_head(arguments)), 1, place.lane,
                      arguments.num_channels);
    }
    store_out<T, VECTOR, LANES, CHUNKS>(arguments, place, sums);
}

// Adds null to a finished sum over images, and writes the output and its log-sum-exp.
template <typename T, int VECTOR, int LANES, int CHUNKS>
MMFS_DEVICE void finish(const Arguments& arguments, const Place<LANES>& place, bool inside, Softmax<Wide<T>> softmax,
                        Channels<T, VECTOR, LANES, CHUNKS>& sums) {
    using W = Wide<T>;
    W scale = 1;
    W null_factor = 0;
    if (arguments.has_null) {
        null_factor = add_logit(softmax, static_cast<W>(arguments.null_logit), scale);
    }
    const bool nothing = softmax.total == 0;
    W share_of_null = nothing ? 1 : null_factor / softmax.total;
    W normalise = nothing ? 0 : scale / softmax.total;
    W lse = log_sum_exp(softmax);
    if (!inside) {
        lse = share_of_null = normalise = not_a_number<W>();
    }
    sums.scale(normalise);
    if (arguments.null_value.data != nullptr) {
        sums.each_chunk(place.lane, arguments.num_channels, [&](int chunk, int channel) {
            for (int i = 0; i < VECTOR; ++i) {
                const int64 entry = place.head * arguments.num_channels + channel + i;
                sums.wide[chunk][i] += share_of_null * read<W>(arguments.null_value, entry);
            }
        });
    }
    store_out<T, VECTOR, LANES, CHUNKS>(arguments, place, sums);
    if (arguments.lse != nullptr && place.lane == 0) {
        store(static_cast<W*>(arguments.lse) + place.row_and_head(arguments), lse);
    }
}

// One kernel from reference points, offsets and logits to the output. Walks the images that a row sees, newest first:
// rows of a block, neighbours in a sequence, then read the same image at the same time. With blockIdx.z splits of the
// samples of a row, each writes its part, and merge_splits finishes.
template <typename T, int VECTOR, int LANES, int CHUNKS>
MMFS_DEVICE void mmfs_attention_forward(const Arguments& arguments) {
    using W = Wide<T>;
    SharedMemory memory;
    const Batch<W> batch = take_batch<W>(memory);
    const Place<LANES> place(arguments);
    const int samples = static_cast<int>(arguments.num_levels * arguments.num_points);
    const int batches_per_image = (samples + LANES - 1) / LANES;
    const Visible visible = place.active ? visible_of(arguments, place.row) : Visible{0, 0, true};
    const int64 num_batches = static_cast<int64>(visible.count) * batches_per_image;
    const int split = static_cast<int>(blockIdx.z);
    const int begin = static_cast<int>(num_batches * split / arguments.num_splits);
    const int end = static_cast<int>(num_batches * (split + 1) / arguments.num_splits);

    Channels<T, VECTOR, LANES, CHUNKS> sums;
    sums.clear();
    W peak = minus_infinity<W>();
    W total = 0;  // of this lane's samples
    // Shuffles need the whole warp: groups with fewer images add nothing in the last steps.
    const int steps = warp_max(end - begin);
    for (int step = 0; step < steps; ++step) {
        const int number = begin + step;
        const int age = number / batches_per_image + 1;
        const int first = number % batches_per_image * LANES;
        const int index = first + place.lane;
        Sample<W> sample;
        place_nothing(sample);
        Level level{1, 1, 0};
        W logit = minus_infinity<W>();
        const int64 image = number < end ? image_of(arguments, place.row, visible, age) : -1;
        if (image >= 0 && index < samples) {
            logit = mmfs_attention_logit<W>(arguments, place.row, place.head, age, index);
            level = level_of(arguments, image, index / static_cast<int>(arguments.num_points));
            const Location<W> location = mmfs_attention_location<W>(arguments, place.row, place.head, age, index);
            place_sample(location.x, location.y, level.height, level.width, sample);
        }
        const W peak_before = peak;
        const W peak_here = group_max<LANES>(logit);
        peak = peak_before >= peak_here ? peak_before : peak_here;
        const W scale = exp_below(peak_before, peak);
        const W factor = exp_below(logit, peak);
        total = total * scale + factor;
        sums.scale(scale);
        batch.put(static_cast<int>(threadIdx.x), sample, level.first_pixel, factor);
        __syncwarp();
        gather<T, VECTOR, LANES, CHUNKS>(arguments, batch, place, image, image >= 0 ? min(LANES, samples - first) : 0,
                                         sums);
        __syncwarp();  // the next batch overwrites this one
    }
    const Softmax<W> softmax{peak, group_sum<LANES>(total)};
    if (!place.active) {
        return;
    }
    if (arguments.num_splits == 1) {
        finish<T, VECTOR, LANES, CHUNKS>(arguments, place, visible.inside, softmax, sums);
        return;
    }
    store_part<T, VECTOR, LANES, CHUNKS>(arguments, place, split, sums);
    const int64 part = split * arguments.num_rows * arguments.num_heads + place.row_and_head(arguments);
    if (place.lane == 0) {
        store(static_cast<W*>(arguments.split_softmaxes) + part * 2, softmax.peak);
        store(static_cast<W*>(arguments.split_softmaxes) + part * 2 + 1, softmax.total);
    }
}

// Adds up what the splits of mmfs_attention_forward wrote.
template <typename T, int VECTOR, int LANES, int CHUNKS>
MMFS_DEVICE void merge_splits(const Arguments& arguments) {
    using W = Wide<T>;
    const Place<LANES> place(arguments);
    if (!place.active) {
        return;
    }
    Channels<T, VECTOR, LANES, CHUNKS> sums;
    sums.clear();
    Softmax<W> softmax = empty_softmax<W>();
    for (int split = 0; split < arguments.num_splits; ++split) {
        const int64 part = split * arguments.num_rows * arguments.num_heads + place.row_and_head(arguments);
        const W* state = static_cast<const W*>(arguments.split_softmaxes) + part * 2;
        W scale;
        W scale_part;
        softmax = merge(softmax, Softmax<W>{load(state), load(state + 1)}, scale, scale_part);
        sums.scale(scale);
        sums.add_part(part_of<W>(arguments, split, place.row_and_head(arguments)), scale_part, place.lane,
                      arguments.num_channels);
    }
    finish<T, VECTOR, LANES, CHUNKS>(arguments, place, visible_of(arguments, place.row).inside, softmax, sums);
}

}  // namespace mmfs
