// ms_deform_attn on a CPU: `reference.ms_deform_attn_reference` and its gradient.
//
// Letters: B batch, Q queries, H heads, D channels of a head, L levels, P points. Row b of the batch samples image b. A
// bag is one head of one query.

#pragma once

#include "cpu_samples.h"

namespace mmfs {

template <typename S, typename W>
struct MSDeformAttn {
    Bank bank;
    int64_t batch;
    int64_t num_queries;
    int64_t num_points;
    const Workers* workers;
    int64_t num_threads;
    bool deterministic;  // the gradients do not depend on num_threads
    const S* value;      // [B, pixels, H, D]
    const W* locations;  // [B, Q, H, L, P, 2]
    const W* weights;    // [B, Q, H, L, P]
    S* out;              // [B, Q, H, D]
    const S* grad_out;   // [B, Q, H, D]
    S* grad_value;       // null: not wanted
    W* grad_locations;
    W* grad_weights;

    int64_t samples_of_bag() const { return bank.num_levels * num_points; }
};

// How a call is cut into pieces.
template <typename S, typename W>
struct MSDeformAttnPlan {
    MSDeformAttnPlan(const MSDeformAttn<S, W>& op, bool is_forward) {
        std::vector<Range> images;
        for (int64_t row = 0; row < op.batch; ++row) {
            images.push_back({row, row + 1});
        }
        groups = group_rows(images);
        num_samples = product(op.batch * op.num_queries * op.bank.num_heads, op.samples_of_bag());
        num_threads = useful_threads(op.num_threads, num_samples, op.bank.num_channels);
        const int64_t threads_for_cut = op.deterministic && !is_forward ? 1 : num_threads;
        pieces = cut(groups, op.bank.num_heads, op.num_queries, threads_for_cut, num_chunks);
    }

    std::vector<Group> groups;
    int64_t num_samples;  // of all heads
    int64_t num_threads;
    int64_t num_chunks;
    std::vector<Piece> pieces;
};

// The working memory of a thread.
template <typename S, typename W>
struct MSDeformAttnMemory {
    typename HeadRows<S, W>::Memory rows;
    Buffer<W> gradient;
    BagSamples<S, W> samples;
    Buffer<W> row;
    Buffer<W> dots;

    explicit MSDeformAttnMemory(const MSDeformAttn<S, W>& op) : samples(op.bank.num_levels, op.num_points) {
        row.reserve(padded<W>(op.bank.num_channels));
        dots.reserve(op.samples_of_bag() * NUM_CORNERS);
    }
};

// Calls visit(bag) for every bag of a piece, whose samples memory then holds.
template <bool BACKWARD, typename S, typename W, typename Visit>
void for_bags(
    const MSDeformAttn<S, W>& op, const Piece& piece, const Group& group, HeadRows<S, W>& rows,
    const HeadGradient<W>* gradient, MSDeformAttnMemory<S, W>& memory, const Visit& visit
) {
    const int64_t num_heads = op.bank.num_heads;
    for (int64_t query = piece.first_query; query < piece.last_query; ++query) {
        const int64_t row = group.rows[static_cast<std::size_t>(query / op.num_queries)];
        const int64_t bag = (row * op.num_queries + query % op.num_queries) * num_heads + piece.head;
        const W* locations = op.locations + bag * op.samples_of_bag() * 2;
        const W* weights = op.weights + bag * op.samples_of_bag();
        const Plane* planes = op.bank.planes.data() + row * op.bank.num_levels;
        // Those of the next query are H * L * P further on: too far for the hardware prefetcher.
        __builtin_prefetch(locations + num_heads * op.samples_of_bag() * 2);
        __builtin_prefetch(weights + num_heads * op.samples_of_bag());
        BagSamples<S, W>& samples = memory.samples;
        for (int64_t i = 0; i < op.samples_of_bag(); ++i) {
            samples.x()[i] = locations[2 * i];
            samples.y()[i] = locations[2 * i + 1];
        }
        std::copy_n(weights, op.samples_of_bag(), samples.weights());
        samples.template place<BACKWARD>(planes, rows, gradient);
        visit(bag);
    }
}

template <typename S, typename W>
int64_t num_reads(const MSDeformAttn<S, W>& op, const Piece& piece) {
    return (piece.last_query - piece.first_query) * op.samples_of_bag() * NUM_CORNERS;
}

template <typename S, typename W>
HeadRows<S, W> rows_of(
    const MSDeformAttn<S, W>& op, const Piece& piece, const Group& group, MSDeformAttnMemory<S, W>& memory
) {
    const int64_t reads_of_bag = op.samples_of_bag() * NUM_CORNERS;
    return HeadRows<S, W>(
        op.value, op.bank, piece.head, group.images, num_reads(op, piece), reads_of_bag, memory.rows
    );
}

template <typename S, typename W>
Strategy strategy_of(const MSDeformAttn<S, W>& op, bool is_forward) {
    const MSDeformAttnPlan<S, W> plan(op, is_forward);
    Strategy strategy{};
    strategy.num_pieces = static_cast<int64_t>(plan.pieces.size());
    strategy.num_threads = std::min(plan.num_threads, strategy.num_pieces);
    for (const Piece& piece : plan.pieces) {
        const Range images = plan.groups[static_cast<std::size_t>(piece.group)].images;
        strategy.count(access_to<S, W>(op.bank, images, num_reads(op, piece)));
    }
    strategy.gradient_in_place = sums_in_place<S, W>(op.bank, plan.num_chunks, product(plan.num_samples, NUM_CORNERS));
    return strategy;
}

template <typename S, typename W>
void forward(const MSDeformAttn<S, W>& op) {
    const MSDeformAttnPlan<S, W> plan(op, true);
    const int64_t num_channels = op.bank.num_channels;
    using Memory = MSDeformAttnMemory<S, W>;
    const auto make_memory = [&] { return Memory(op); };
    parallel_for(*op.workers, plan.pieces, plan.num_threads, make_memory, [&](const Piece& piece, Memory& memory) {
        const Group& group = plan.groups[static_cast<std::size_t>(piece.group)];
        HeadRows<S, W> rows = rows_of(op, piece, group, memory);
        W* sum = memory.row.data();
        for_bags<false, S, W>(op, piece, group, rows, nullptr, memory, [&](int64_t bag) {
            std::fill_n(sum, rows.width(), W(0));
            add_rows(memory.samples.rows(), memory.samples.count(), rows.width(), sum);
            narrow_row(sum, op.out + bag * num_channels, num_channels);
        });
    });
}

template <typename S, typename W>
void backward(const MSDeformAttn<S, W>& op) {
    const MSDeformAttnPlan<S, W> plan(op, false);
    const int64_t num_channels = op.bank.num_channels;
    ValueGradient<S, W> value_gradient(
        op.bank, op.grad_value, plan.groups, plan.num_chunks, product(plan.num_samples, NUM_CORNERS)
    );
    using Memory = MSDeformAttnMemory<S, W>;
    const auto make_memory = [&] { return Memory(op); };
    parallel_for(*op.workers, plan.pieces, plan.num_threads, make_memory, [&](const Piece& piece, Memory& memory) {
        const Group& group = plan.groups[static_cast<std::size_t>(piece.group)];
        HeadRows<S, W> rows = rows_of(op, piece, group, memory);
        const HeadGradient<W> gradient = value_gradient.start(piece, group.images, memory.gradient);
        const HeadGradient<W>* wanted = gradient.wanted() ? &gradient : nullptr;
        W* grad_row = memory.row.data();
        std::fill_n(grad_row, rows.width(), W(0));
        W* dots = memory.dots.data();
        const BagSamples<S, W>& samples = memory.samples;
        for_bags<true>(op, piece, group, rows, wanted, memory, [&](int64_t bag) {
            widen_row(op.grad_out + bag * num_channels, grad_row, num_channels);
            pull_rows(samples.rows(), samples.count(), rows.width(), grad_row, gradient.wanted(), dots);
            W* grad_weights = op.grad_weights + bag * op.samples_of_bag();
            W* grad_locations = op.grad_locations + bag * op.samples_of_bag() * 2;
            std::fill_n(grad_weights, op.samples_of_bag(), W(0));
            std::fill_n(grad_locations, op.samples_of_bag() * 2, W(0));
            for (int64_t k = 0; k < samples.count(); ++k) {
                const int64_t i = samples.index(k);
                const W weight = op.weights[bag * op.samples_of_bag() + i];
                const Sample<W>& sample = samples.sample(k);
                const Plane& plane = op.bank.planes[static_cast<std::size_t>(i / op.num_points)];
                const W* of_corner = dots + k * NUM_CORNERS;
                grad_weights[i] = interpolate(sample, of_corner);
                grad_locations[2 * i] = weight * slope_x(sample, of_corner, plane.width);
                grad_locations[2 * i + 1] = weight * slope_y(sample, of_corner, plane.height);
            }
        });
        value_gradient.finish(piece, gradient);
    });
}

}  // namespace mmfs
