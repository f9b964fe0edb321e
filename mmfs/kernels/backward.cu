// Gradients of both ops. That of value is added up in global memory, unless map_gradient.cu or dense_gradient.cu
// computes it afterwards. Letters as in arguments.cuh.
//
// With w the weights, v the samples and g the gradient of the output: the gradient of w is g.v, and through the softmax
// that of a logit is w (g.v - sum of w g.v over all entries, null among them). That sum is known only after the last
// sample: for the gradient of logits, w g.v and w are summed separately and combined at the end, so that each pixel is
// read once.

#include "group.cuh"

namespace mmfs {

constexpr int REDUCED_AT_ONCE = 8;  // samples of a batch whose products stay in registers until they are added up
constexpr int NUM_PRODUCTS = 3;

// The gradient of the output times one sample and times its derivatives.
template <typename W>
struct Products {
    W of_sample;   // g.v
    W along_x;     // derivative of g.v with respect to the location
    W along_y;
};

// Sums SAMPLES x 3 numbers over the lanes. Each exchange halves the samples that a lane still sums, which takes
// fewer shuffles than a separate sum over the lanes for each number. Afterwards parts[0] belongs to sample
// lane / (LANES / SAMPLES).
template <int LANES, int SAMPLES, typename W>
MMFS_DEVICE void add_over_lanes(W (&parts)[SAMPLES][NUM_PRODUCTS], int lane) {
    int distance = LANES / 2;
#pragma unroll
    for (int kept = SAMPLES / 2; kept > 0; kept /= 2, distance /= 2) {
        const bool upper = lane & distance;
#pragma unroll
        for (int sample = 0; sample < kept; ++sample) {
#pragma unroll
            for (int i = 0; i < NUM_PRODUCTS; ++i) {
                const W given = upper ? parts[sample][i] : parts[sample + kept][i];
                const W mine = upper ? parts[sample + kept][i] : parts[sample][i];
                parts[sample][i] = mine + __shfl_xor_sync(WHOLE_WARP, given, distance);
            }
        }
    }
    for (; distance > 0; distance /= 2) {
#pragma unroll
        for (int i = 0; i < NUM_PRODUCTS; ++i) {
            parts[0][i] += __shfl_xor_sync(WHOLE_WARP, parts[0][i], distance);
        }
    }
}

// Products of the samples of a batch, each handed to the lane that placed it; adds to the gradient of value, if wanted.
template <typename T, int VECTOR, int LANES, int CHUNKS>
struct BatchGradient {
    using W = Wide<T>;
    const Arguments& arguments;
    const Place<LANES>& place;
    Batch<W> batch;                       // its shares are the bilinear weights alone
    SharedArray<Shares<W>> of_slot;       // right, below and attention weight of a sample
    SharedArray<Products<W>> results;
    Channels<T, VECTOR, LANES, CHUNKS> grad;  // of the output

    MMFS_DEVICE BatchGradient(const Arguments& arguments, const Place<LANES>& place, SharedMemory& memory)
        : arguments(arguments), place(place), batch(take_batch<W>(memory)) {
        of_slot = memory.take<Shares<W>>(static_cast<int>(blockDim.x));
        results = memory.take<Products<W>>(static_cast<int>(blockDim.x));
        grad.clear();
        if (place.active) {
            const T* grad_out = static_cast<const T*>(arguments.grad_out);
            grad.add(grad_out + place.row_and_head(arguments) * arguments.num_channels, 1, place.lane,
                     arguments.num_channels);
        }
    }

    // The batch consists of one sample of each lane, all of one image; the first `count` are used.
    MMFS_DEVICE Products<W> products(const Sample<W>& sample, const Level& level, W weight, int64 image, int count) {
        const int own_slot = static_cast<int>(threadIdx.x);
        batch.put(own_slot, sample, level.first_pixel, 1);
        of_slot[own_slot] = {{sample.right, sample.below, weight, 0}};
        __syncwarp();
        const int64 pixel_stride = arguments.num_heads * arguments.num_channels;
        const int64 first =
            count == 0 ? 0 : first_pixel_of(arguments, image) * pixel_stride + place.head * arguments.num_channels;
        constexpr int GROUPED = LANES < REDUCED_AT_ONCE ? LANES : REDUCED_AT_ONCE;
#pragma unroll 1
        for (int base = 0; base < LANES; base += GROUPED) {
            W parts[GROUPED][NUM_PRODUCTS];
#pragma unroll
            for (int i = 0; i < GROUPED; ++i) {
                parts[i][0] = parts[i][1] = parts[i][2] = 0;
                if (base + i < count) {
                    visit(place.group * LANES + base + i, first, pixel_stride, parts[i]);
                }
            }
            add_over_lanes<LANES>(parts, place.lane);
            constexpr int SHARERS = LANES / GROUPED;
            if (place.lane % SHARERS == 0) {
                results[place.group * LANES + base + place.lane / SHARERS] = {parts[0][0], parts[0][1], parts[0][2]};
            }
        }
        __syncwarp();
        Products<W> own = results[own_slot];
        own.along_x *= static_cast<W>(level.width);
        own.along_y *= static_cast<W>(level.height);
        __syncwarp();  // the next batch overwrites this one
        return own;
    }

   private:
    // This lane's part of the products of one sample; slopes are per pixel here.
    MMFS_DEVICE void visit(int slot, int64 first, int64 pixel_stride, W (&part)[NUM_PRODUCTS]) {
        const Pixels pixels = batch.pixels[slot];
        const Shares<W> shares = batch.shares[slot];
        const Shares<W> more = of_slot[slot];
        W of_corner[NUM_CORNERS];
#pragma unroll
        for (int corner = 0; corner < NUM_CORNERS; ++corner) {
            of_corner[corner] = 0;
            if (pixels.pixel[corner] == UNTOUCHED) {
                continue;
            }
            const int64 start = first + pixels.pixel[corner] * pixel_stride;
            const W coefficient = shares.share[corner] * more.share[2];
            grad.each_chunk(place.lane, arguments.num_channels, [&](int chunk, int channel) {
                W pixel[VECTOR];
                load_vector<VECTOR>(static_cast<const T*>(arguments.value) + start + channel, pixel);
#pragma unroll
                for (int i = 0; i < VECTOR; ++i) {
                    of_corner[corner] += grad.wide[chunk][i] * pixel[i];
                }
            });
            if (arguments.grad_value != nullptr) {
                grad.each_chunk(place.lane, arguments.num_channels, [&](int chunk, int channel) {
                    W addition[VECTOR];
#pragma unroll
                    for (int i = 0; i < VECTOR; ++i) {
                        addition[i] = coefficient * grad.wide[chunk][i];
                    }
                    add_vector<VECTOR>(static_cast<W*>(arguments.grad_value) + start + channel, addition);
                });
            }
        }
        Sample<W> sample;
#pragma unroll
        for (int corner = 0; corner < NUM_CORNERS; ++corner) {
            sample.share[corner] = shares.share[corner];
        }
        sample.right = more.share[0];
        sample.below = more.share[1];
        part[0] = interpolate(sample, of_corner);
        part[1] = slope_x(sample, of_corner, 1);
        part[2] = slope_y(sample, of_corner, 1);
    }
};

template <typename T, int VECTOR, int LANES, int CHUNKS>
MMFS_DEVICE void ms_deform_attn_backward(const Arguments& arguments) {
    using W = Wide<T>;
    SharedMemory memory;
    const Place<LANES> place(arguments);
    BatchGradient<T, VECTOR, LANES, CHUNKS> gradient(arguments, place, memory);
    const int samples = static_cast<int>(arguments.num_levels * arguments.num_points);
    const int64 image = place.row / arguments.num_queries;
    for (int first = 0; first < samples; first += LANES) {
        const int index = first + place.lane;
        const bool own = place.active && index < samples;
        const int64 entry = place.row_and_head(arguments) * samples + index;
        Sample<W> sample;
        place_nothing(sample);
        Level level{1, 1, 0};
        W weight = 0;
        if (own) {
            level = level_of(arguments, image, index / static_cast<int>(arguments.num_points));
            const Location<W> location = ms_deform_attn_location<W>(arguments, place.row, place.head, index);
            // A sample that touches no pixel has no gradient, whatever its weight: 0 * NaN is not 0.
            const bool inside = place_sample(location.x, location.y, level.height, level.width, sample);
            weight = inside ? read<W>(arguments.weights, entry) : 0;
        }
        const int count = place.active ? min(LANES, samples - first) : 0;
        const Products<W> products = gradient.products(sample, level, weight, image, count);
        if (own) {
            write(arguments.grad_weights, entry, products.of_sample);
            write(arguments.grad_locations, entry * 2, weight * products.along_x);
            write(arguments.grad_locations, entry * 2 + 1, weight * products.along_y);
        }
    }
}

// Sums of one group over the images of its row, for each level and point.
template <typename W>
struct RowSums {
    W weighted_product;
    W weight;
    W along_x;  // of the location, times the weight
    W along_y;
};

// What an image of one age adds to the gradients of the tables, from one group.
template <typename W>
struct AgeSums {
    W logit;
    W along_x;
    W along_y;
};

// Gradients of tables and null_value. With several tiles each block of rows adds to its own copy, in a fixed order.
template <typename W>
MMFS_DEVICE void add_to_table(const Arguments& arguments, void* table, int64 size, int64 entry, W x) {
    W* base = static_cast<W*>(table);
    if (arguments.num_tiles == 1) {
        add_to(base + entry, x);
    } else {
        W* own = base + static_cast<int64>(blockIdx.x) * size + entry;
        store(own, load(own) + x);
    }
}

template <typename W, int LANES>
MMFS_DEVICE void add_logits_of_age(const Arguments& arguments, const SharedArray<AgeSums<W>>& of_age, int age, int head) {
    const int samples = static_cast<int>(arguments.num_levels * arguments.num_points);
    const int groups = static_cast<int>(blockDim.x) / LANES;
    const int64 row_size = arguments.num_heads * samples;
    const int64 row = row_of_age(age, arguments.num_logit_ages);
    for (int index = static_cast<int>(threadIdx.x); index < samples; index += static_cast<int>(blockDim.x)) {
        W sum = 0;
        for (int group = 0; group < groups; ++group) {
            sum += of_age[group * samples + index].logit;
        }
        const int64 entry = row * row_size + head * samples + index;
        add_to_table(arguments, arguments.grad_logit_table, arguments.num_logit_ages * row_size, entry, sum);
    }
}

template <typename W, int LANES>
MMFS_DEVICE void add_offsets_of_age(const Arguments& arguments, const SharedArray<AgeSums<W>>& of_age, int age, int head) {
    const int samples = static_cast<int>(arguments.num_levels * arguments.num_points);
    const int offsets = static_cast<int>(arguments.offset_levels * arguments.num_points);
    const int groups = static_cast<int>(blockDim.x) / LANES;
    const int64 row_size = arguments.num_heads * offsets * 2;
    const int64 row = row_of_age(age, arguments.num_offset_ages);
    for (int offset = static_cast<int>(threadIdx.x); offset < offsets; offset += static_cast<int>(blockDim.x)) {
        W along_x = 0;
        W along_y = 0;
        for (int group = 0; group < groups; ++group) {
            for (int index = offset; index < samples; index += offsets) {
                along_x += of_age[group * samples + index].along_x;
                along_y += of_age[group * samples + index].along_y;
            }
        }
        const int64 size = arguments.num_offset_ages * row_size;
        const int64 entry = row * row_size + (static_cast<int64>(head) * offsets + offset) * 2;
        add_to_table(arguments, arguments.grad_offset_table, size, entry, along_x);
        add_to_table(arguments, arguments.grad_offset_table, size, entry + 1, along_y);
    }
}

// The gradients of the reference points of one slot of a row and head, from the samples of its image. Each lane of the
// group takes some of the points.
template <typename W, int LANES>
MMFS_DEVICE void store_points_of_slot(const Arguments& arguments, const SharedArray<AgeSums<W>>& of_age,
                                      const Place<LANES>& place, int slot) {
    const int num_points = static_cast<int>(arguments.num_points);
    const int num_levels = static_cast<int>(arguments.num_levels);
    const int point_levels = static_cast<int>(arguments.point_levels);
    const int point_points = static_cast<int>(arguments.point_points);
    const int points_of_slot = point_levels * point_points;
    W* own = static_cast<W*>(arguments.grad_points) +
             (place.row_and_head(arguments) * arguments.num_slots + slot) * points_of_slot * 2;
    for (int point = place.lane; point < points_of_slot; point += LANES) {
        W along_x = 0;
        W along_y = 0;
        for (int level = point / point_points; level < num_levels; level += point_levels) {
            for (int sampled = point % point_points; sampled < num_points; sampled += point_points) {
                const AgeSums<W>& sums = of_age[place.group * num_levels * num_points + level * num_points + sampled];
                along_x += sums.along_x;
                along_y += sums.along_y;
            }
        }
        store(own + point * 2, along_x);
        store(own + point * 2 + 1, along_y);
    }
}

// Computes the log-sum-exp of a row again, from its logits alone. The whole warp calls it.
template <typename W, int LANES>
MMFS_DEVICE W lse_of(const Arguments& arguments, const Place<LANES>& place, const Visible& visible) {
    const int samples = static_cast<int>(arguments.num_levels * arguments.num_points);
    Softmax<W> softmax = empty_softmax<W>();
    W scale;
    for (int age = 1; age <= visible.count; ++age) {
        if (image_of(arguments, place.row, visible, age) < 0) {
            continue;
        }
        for (int index = place.lane; index < samples; index += LANES) {
            add_logit(softmax, mmfs_attention_logit<W>(arguments, place.row, place.head, age, index), scale);
        }
    }
    const W peak = group_max<LANES>(softmax.peak);
    softmax = {peak, group_sum<LANES>(softmax.total * exp_below(softmax.peak, peak))};
    if (arguments.has_null) {
        add_logit(softmax, static_cast<W>(arguments.null_logit), scale);
    }
    return visible.inside ? log_sum_exp(softmax) : not_a_number<W>();
}

// All gradients in one launch. All groups of a block take the ages together: images of one age share their table row.
template <typename T, int VECTOR, int LANES, int CHUNKS>
MMFS_DEVICE void mmfs_attention_backward(const Arguments& arguments) {
    using W = Wide<T>;
    SharedMemory memory;
    const Place<LANES> place(arguments);
    BatchGradient<T, VECTOR, LANES, CHUNKS> gradient(arguments, place, memory);
    const int groups = static_cast<int>(blockDim.x) / LANES;
    const int num_points = static_cast<int>(arguments.num_points);
    const int samples = static_cast<int>(arguments.num_levels) * num_points;
    const SharedArray<RowSums<W>> of_row = memory.take<RowSums<W>>(groups * samples);
    const SharedArray<AgeSums<W>> of_age = memory.take<AgeSums<W>>(groups * samples);
    const SharedArray<W> of_null = memory.take<W>(groups);
    const SharedArray<int> counts = memory.take<int>(groups);

    const Visible visible = place.active ? visible_of(arguments, place.row) : Visible{0, 0, true};
    const int64 row_and_head = place.row_and_head(arguments);
    W* kept_lse = static_cast<W*>(arguments.lse) + row_and_head;
    W lse = 0;
    if (!arguments.has_lse) {
        lse = lse_of<W, LANES>(arguments, place, visible);
        if (place.active && place.lane == 0) {
            store(kept_lse, lse);
        }
    } else if (place.active) {
        lse = load(kept_lse);
    }
    const W share_of_null =
        place.active ? null_weight(arguments.has_null != 0, static_cast<W>(arguments.null_logit), lse) : 0;
    if (place.lane == 0) {
        of_null[place.group] = share_of_null;
        counts[place.group] = visible.count;
    }
    for (int index = place.lane; index < samples; index += LANES) {
        of_row[place.group * samples + index] = {0, 0, 0, 0};
    }
    __syncthreads();
    int num_ages = 0;
    for (int group = 0; group < groups; ++group) {
        num_ages = max(num_ages, counts[group]);
    }
    const bool has_offset_table = arguments.grad_offset_table != nullptr;
    const bool has_logit_table = arguments.grad_logit_table != nullptr;

    for (int age = 1; age <= num_ages; ++age) {
        const int64 image = age <= visible.count ? image_of(arguments, place.row, visible, age) : -1;
        const bool seen = image >= 0;
        for (int first = 0; first < samples; first += LANES) {
            const int index = first + place.lane;
            const bool own = seen && index < samples;
            Sample<W> sample;
            place_nothing(sample);
            Level level{1, 1, 0};
            W weight = 0;
            bool inside = false;
            if (own) {
                weight = weight_of(mmfs_attention_logit<W>(arguments, place.row, place.head, age, index), lse);
                level = level_of(arguments, image, index / num_points);
                const Location<W> location = mmfs_attention_location<W>(arguments, place.row, place.head, age, index);
                inside = place_sample(location.x, location.y, level.height, level.width, sample);
            }
            const int count = seen ? min(LANES, samples - first) : 0;
            const Products<W> products = gradient.products(sample, level, weight, image, count);
            if (index < samples) {
                const W logit = own ? weight * products.of_sample : 0;
                const W along_x = inside ? weight * products.along_x : 0;
                const W along_y = inside ? weight * products.along_y : 0;
                of_age[place.group * samples + index] = {logit, along_x, along_y};
                RowSums<W>& sums = of_row[place.group * samples + index];
                sums = {sums.weighted_product + logit, sums.weight + weight, sums.along_x + along_x,
                        sums.along_y + along_y};
            }
        }
        if (arguments.image_indices != nullptr) {
            __syncwarp();
            if (seen) {
                store_points_of_slot<W, LANES>(arguments, of_age, place, age - 1);
            }
            __syncwarp();  // the next age overwrites this one
        }
        if (has_offset_table || has_logit_table) {
            __syncthreads();
            if (has_offset_table) {
                add_offsets_of_age<W, LANES>(arguments, of_age, age, place.head);
            }
            if (has_logit_table) {
                add_logits_of_age<W, LANES>(arguments, of_age, age, place.head);
            }
            __syncthreads();
        }
    }
    __syncwarp();

    // Sum of w g.v over all entries.
    W mean = 0;
    for (int index = place.lane; index < samples; index += LANES) {
        mean += of_row[place.group * samples + index].weighted_product;
    }
    if (place.active && arguments.null_value.data != nullptr) {
        gradient.grad.each_chunk(place.lane, arguments.num_channels, [&](int chunk, int channel) {
            for (int i = 0; i < VECTOR; ++i) {
                const int64 entry = place.head * arguments.num_channels + channel + i;
                mean += share_of_null * gradient.grad.wide[chunk][i] * read<W>(arguments.null_value, entry);
            }
        });
    }
    mean = group_sum<LANES>(mean);

    if (has_logit_table) {
        for (int age = 1; age <= num_ages; ++age) {
            for (int index = place.lane; index < samples; index += LANES) {
                W logit = 0;
                if (age <= visible.count && image_of(arguments, place.row, visible, age) >= 0) {
                    const W own_logit = mmfs_attention_logit<W>(arguments, place.row, place.head, age, index);
                    logit = -weight_of(own_logit, lse) * mean;
                }
                of_age[place.group * samples + index].logit = logit;
            }
            __syncthreads();
            add_logits_of_age<W, LANES>(arguments, of_age, age, place.head);
            __syncthreads();
        }
    }

    if (arguments.grad_null_value != nullptr) {
        const int64 size = arguments.num_heads * arguments.num_channels;
        const T* grad_out = static_cast<const T*>(arguments.grad_out);
        for (int64 channel = threadIdx.x; channel < arguments.num_channels; channel += blockDim.x) {
            W sum = 0;
            for (int group = 0; group < groups; ++group) {
                const int64 row = place.row - place.group + group;
                if (row < arguments.num_rows) {
                    const int64 start = (row * arguments.num_heads + place.head) * arguments.num_channels;
                    sum += of_null[group] * static_cast<W>(widen(load(grad_out + start + channel)));
                }
            }
            const int64 entry = place.head * arguments.num_channels + channel;
            add_to_table(arguments, arguments.grad_null_value, size, entry, sum);
        }
    }

    if (place.active) {
        for (int index = place.lane; index < samples; index += LANES) {
            const RowSums<W> sums = of_row[place.group * samples + index];
            // Without images there is no gradient, whatever null_value is: 0 * NaN is not 0.
            const W logit = visible.count > 0 ? sums.weighted_product - sums.weight * mean : 0;
            write(arguments.grad_logits, row_and_head * samples + index, logit);
        }
    }
    W point_x = 0;
    W point_y = 0;
    const int offsets = static_cast<int>(arguments.offset_levels) * num_points;
    for (int offset = place.lane; offset < offsets; offset += LANES) {
        W along_x = 0;
        W along_y = 0;
        for (int index = offset; index < samples; index += offsets) {
            along_x += of_row[place.group * samples + index].along_x;
            along_y += of_row[place.group * samples + index].along_y;
        }
        if (place.active) {
            write(arguments.grad_offsets, (row_and_head * offsets + offset) * 2, along_x);
            write(arguments.grad_offsets, (row_and_head * offsets + offset) * 2 + 1, along_y);
        }
        point_x += along_x;
        point_y += along_y;
    }
    point_x = group_sum<LANES>(point_x);
    point_y = group_sum<LANES>(point_y);
    if (place.active && place.lane == 0 && arguments.image_indices == nullptr) {
        store(static_cast<W*>(arguments.grad_points) + row_and_head * 2, point_x);
        store(static_cast<W*>(arguments.grad_points) + row_and_head * 2 + 1, point_y);
    }
}

}  // namespace mmfs
