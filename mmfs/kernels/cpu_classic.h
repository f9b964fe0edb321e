// ms_deform_attn on a CPU: `reference.ms_deform_attn_reference` and its gradient.
//
// Letters: B batch, Q queries, H heads, D channels of a head, L levels, P points. Row b of the batch samples image b.

#pragma once

#include "cpu_bank.h"

namespace mmfs {

template <typename S, typename W>
struct Classic {
    Bank bank;
    int64_t batch;
    int64_t num_queries;
    int64_t num_points;
    int64_t num_threads;
    const S* value;      // [B, S, H, D]
    const W* locations;  // [B, Q, H, L, P, 2]
    const W* weights;    // [B, Q, H, L, P]
    S* out;              // [B, Q, H, D]
    const S* grad_out;   // [B, Q, H, D]
    S* grad_value;       // null: not wanted
    W* grad_locations;
    W* grad_weights;
};

template <typename S, typename W>
struct ClassicMemory {
    typename HeadRows<S, W>::Memory rows;
    Buffer<W> gradient;
    Buffer<Sample<W>> samples;
    Buffer<Reading<W>> readings;
    Buffer<int64_t> indices;
    Buffer<W> row;
    Buffer<W> dots;
};

// Below this many products a thread costs more than it saves.
constexpr int64_t PRODUCTS_PER_THREAD = 1 << 20;

inline int64_t useful_threads(int64_t num_threads, int64_t num_samples, int64_t num_channels) {
    const int64_t products = num_samples * NUM_CORNERS * num_channels;
    return std::max<int64_t>(std::min(num_threads, products / PRODUCTS_PER_THREAD), 1);
}

template <typename S, typename W>
std::vector<Group> groups_of(const Classic<S, W>& op) {
    std::vector<Range> images;
    for (int64_t row = 0; row < op.batch; ++row) {
        images.push_back({row, row + 1});
    }
    return group_rows(images);
}

// The samples of one head of one query. Samples that touch nothing have no reading.
template <typename S, typename W>
int64_t read_query(
    const Classic<S, W>& op, int64_t row, int64_t bag, HeadRows<S, W>& rows, const HeadGradient<W>* gradient,
    Sample<W>* samples, Reading<W>* readings, int64_t* indices
) {
    const int64_t num_samples = op.bank.num_levels * op.num_points;
    const W* locations = op.locations + bag * num_samples * 2;
    const W* weights = op.weights + bag * num_samples;
    const Plane* planes = op.bank.planes.data() + row * op.bank.num_levels;
    // The next query's lie H * L * P further: too far for the hardware to guess.
    __builtin_prefetch(locations + op.bank.num_heads * num_samples * 2);
    __builtin_prefetch(weights + op.bank.num_heads * num_samples);
    rows.next_readings();
    int64_t count = 0;
    for (int64_t level = 0; level < op.bank.num_levels; ++level) {
        for (int64_t point = 0; point < op.num_points; ++point) {
            const int64_t i = level * op.num_points + point;
            if (read_sample(
                    locations[2 * i], locations[2 * i + 1], weights[i], planes[level], rows, gradient, samples[count],
                    readings[count]
                )) {
                indices[count++] = i;
            }
        }
    }
    return count;
}

template <typename S, typename W>
void forward(const Classic<S, W>& op) {
    const int64_t num_samples = op.bank.num_levels * op.num_points;
    const int64_t num_heads = op.bank.num_heads, num_channels = op.bank.num_channels;
    const int64_t all_samples = op.batch * op.num_queries * num_heads * num_samples;
    const int64_t num_threads = useful_threads(op.num_threads, all_samples, num_channels);
    const std::vector<Group> groups = groups_of(op);
    int64_t num_chunks;
    const std::vector<Piece> pieces = cut(groups, num_heads, op.num_queries, num_threads, num_chunks);
    using Memory = ClassicMemory<S, W>;
    parallel_for<Memory>(static_cast<int64_t>(pieces.size()), num_threads, [&](int64_t i, Memory& memory) {
        const Piece& piece = pieces[static_cast<std::size_t>(i)];
        const Group& group = groups[static_cast<std::size_t>(piece.group)];
        const int64_t reads_of_query = num_samples * NUM_CORNERS;
        const int64_t num_reads = (piece.last_query - piece.first_query) * reads_of_query;
        HeadRows<S, W> rows(op.value, op.bank, piece.head, group.images, num_reads, reads_of_query, memory.rows);
        Sample<W>* samples = memory.samples.reserve(num_samples);
        Reading<W>* readings = memory.readings.reserve(num_samples);
        int64_t* indices = memory.indices.reserve(num_samples);
        W* sum = memory.row.reserve(rows.width());
        for (int64_t query = piece.first_query; query < piece.last_query; ++query) {
            const int64_t row = group.rows[static_cast<std::size_t>(query / op.num_queries)];
            const int64_t bag = (row * op.num_queries + query % op.num_queries) * num_heads + piece.head;
            const HeadGradient<W>* no_gradient = nullptr;
            const int64_t count = read_query(op, row, bag, rows, no_gradient, samples, readings, indices);
            std::fill_n(sum, rows.width(), W(0));
            add_rows(readings, count, rows.width(), sum);
            narrow_row(sum, op.out + bag * num_channels, num_channels);
        }
    });
}

}  // namespace mmfs
