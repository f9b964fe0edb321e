// mmfs_attention on a CPU: `reference.mmfs_attention_reference` and its gradient.
//
// Letters: B batch, Q queries, N images, H heads, D channels of a head, L levels, P points, A ages, K slots of a list of
// images. A bag is one head of one query.
//
// A query sees a range of images, or a list of them. A slot is what chooses an image's row of the tables: its place in
// the list or, counted from the newest, in the range.
//
// A piece goes through its queries in tiles, and in a tile through the images: the rows of one image and head stay in
// the cache while all queries of the tile read them.

#pragma once

#include "cpu_samples.h"

namespace mmfs {

template <typename S, typename W>
struct MMFSAttention {
    Bank bank;
    int64_t batch;
    int64_t num_queries;
    int64_t num_points;
    int64_t num_slots;      // K of the lists; 1 with ranges, whose images share a reference point
    int64_t point_levels;   // L if the reference points differ by level, or 1
    int64_t point_points;   // P if the reference points differ by sampled point, or 1
    int64_t offset_levels;  // L if the offsets differ by level, or 1
    int64_t offset_ages;  // rows of the tables
    int64_t logit_ages;
    const Workers* workers;
    int64_t num_threads;
    bool deterministic;         // the gradients do not depend on num_threads
    const S* value;             // [R, H, D]
    const W* reference_points;  // [B*Q, num_slots, point_levels, point_points, 2]
    const W* offsets;           // [B*Q, H, offset_levels, P, 2]
    const W* logits;            // [B*Q, H, L, P]
    const int64_t* visible;     // [B*Q, 2], ranges; or null
    const int64_t* lists;       // [B*Q, K], images, -1 for none; or null
    const W* offset_table;      // [A, H, offset_levels, P, 2] or null; A = offset_ages
    const W* logit_table;       // [A, H, L, P] or null; A = logit_ages
    bool has_null;
    W null_logit;
    const W* null_value;  // [H, D] or null
    S* out;               // [B*Q, H, D]
    const S* grad_out;    // [B*Q, H, D]
    S* grad_value;        // null: not wanted
    W* grad_reference_points;
    W* grad_offsets;
    W* grad_logits;
    W* grad_offset_table;  // null where there is no such tensor
    W* grad_logit_table;
    W* grad_null_value;

    int64_t samples_of_image() const { return bank.num_levels * num_points; }
    int64_t offsets_of_bag() const { return offset_levels * num_points * 2; }
    int64_t points_of_slot() const { return point_levels * point_points * 2; }
    int64_t points_of_query() const { return num_slots * points_of_slot(); }
    // Levels whose samples lie at other places: 1 if an image is sampled at the same places on every level.
    int64_t location_levels() const { return std::max(point_levels, offset_levels); }

    // Of a query of B*Q, the range in which all images lie that it sees; {0, 0} for none.
    Range images_of(int64_t query) const {
        if (lists != nullptr) {
            Range images = {0, 0};
            for (int64_t slot = 0; slot < num_slots; ++slot) {
                const int64_t image = lists[query * num_slots + slot];
                images = image < 0 ? images : hull(images, {image, image + 1});
            }
            return images;
        }
        const Range images = {visible[2 * query], visible[2 * query + 1]};
        return images.last <= images.first ? Range{0, 0} : images;
    }

    // How many images a query sees; one that is listed twice counts twice.
    int64_t num_seen(int64_t query) const {
        if (lists != nullptr) {
            const int64_t* list = lists + query * num_slots;
            return std::count_if(list, list + num_slots, [](int64_t image) { return image >= 0; });
        }
        return images_of(query).size();
    }

    // Where the reference points of a slot begin, counted in numbers, among those of all queries.
    int64_t first_point(int64_t query, int64_t slot) const {
        return query * points_of_query() + (num_slots == 1 ? 0 : slot * points_of_slot());
    }
};

// False if a query sees images outside the bank. Until this is known, nothing is computed with their numbers.
template <typename S, typename W>
bool sees_only_the_bank(const MMFSAttention<S, W>& op) {
    if (op.lists != nullptr) {
        return std::all_of(op.lists, op.lists + op.batch * op.num_queries * op.num_slots, [&](int64_t image) {
            return image >= -1 && image < op.bank.num_images;
        });
    }
    for (int64_t query = 0; query < op.batch * op.num_queries; ++query) {
        const Range images = op.images_of(query);
        if (images.first < 0 || images.last > op.bank.num_images) {
            return false;
        }
    }
    return true;
}

// How a call is cut into pieces.
template <typename S, typename W>
struct MMFSAttentionPlan {
    MMFSAttentionPlan(const MMFSAttention<S, W>& op, bool is_forward) {
        std::vector<Range> images_of_row;
        int64_t num_seen = 0;
        for (int64_t row = 0; row < op.batch; ++row) {
            Range images = {0, 0};
            for (int64_t query = row * op.num_queries; query < (row + 1) * op.num_queries; ++query) {
                images = hull(images, op.images_of(query));
                num_seen += op.num_seen(query);
                most_images = std::max(most_images, op.num_seen(query));
            }
            images_of_row.push_back(images);
        }
        groups = group_rows(images_of_row);
        num_samples = product(product(num_seen, op.bank.num_heads), op.samples_of_image());
        num_threads = useful_threads(op.num_threads, num_samples, op.bank.num_channels);
        const int64_t threads_for_cut = op.deterministic && !is_forward ? 1 : num_threads;
        pieces = cut(groups, op.bank.num_heads, op.num_queries, threads_for_cut, num_chunks);
        const int64_t room = std::max<int64_t>(most_images, 1) * padded<W>(op.samples_of_image());
        const bool lists = op.lists != nullptr;
        tile = std::clamp<int64_t>(
            (lists ? WEIGHTS_OF_LISTS : WEIGHTS_OF_TILE) / std::max<int64_t>(room, 1), 1,
            lists ? std::max<int64_t>(op.batch * op.num_queries, 1) : MOST_QUERIES
        );
    }

    // Enough queries to read each row of an image several times; few enough for their weights to fit the cache too.
    static constexpr int64_t WEIGHTS_OF_TILE = 1 << 14;
    static constexpr int64_t MOST_QUERIES = 128;
    // Neighbouring queries may have images in their lists that are too large for the cache together: with more queries,
    // each image is read by many of them in turn.
    static constexpr int64_t WEIGHTS_OF_LISTS = 1 << 20;

    std::vector<Group> groups;
    int64_t most_images = 0;  // that one query sees
    int64_t num_samples;      // of all heads
    int64_t num_threads;
    int64_t num_chunks;
    std::vector<Piece> pieces;
    int64_t tile;  // queries
};

// An image that a query sees.
struct Seen {
    int64_t image;
    int64_t slot;
};

// The working memory of a thread.
template <typename S, typename W>
struct MMFSAttentionMemory {
    typename HeadRows<S, W>::Memory rows;
    Buffer<W> gradient;
    // For each query of a tile: its index in B*Q, the images that it sees, [most_images], and how many they are, attention
    // weights [most_images, L * P padded], weight of null, one row of channels.
    Buffer<int64_t> queries;
    Buffer<Seen> seen;
    Buffer<int64_t> counts;
    std::vector<int64_t> order;  // of all that is seen in a tile with lists: by image, then as in `seen`
    Buffer<W> weights;
    Buffer<W> null_weights;
    Buffer<W> channels;
    Buffer<W> products;  // like weights: gradient of the output times sample
    BagSamples<S, W> samples;
    Buffer<W> locations;  // of the samples of a level, [P, 2]
    Buffer<W> dots;

    MMFSAttentionMemory(const MMFSAttention<S, W>& op, const MMFSAttentionPlan<S, W>& plan)
        : samples(op.bank.num_levels, op.num_points) {
        const int64_t weights_of_bag = plan.most_images * padded<W>(op.samples_of_image());
        queries.reserve(plan.tile);
        seen.reserve(plan.tile * plan.most_images);
        counts.reserve(plan.tile);
        weights.reserve(plan.tile * weights_of_bag);
        null_weights.reserve(plan.tile);
        channels.reserve(plan.tile * padded<W>(op.bank.num_channels));
        locations.reserve(op.num_points * 2);
        dots.reserve(op.samples_of_image() * NUM_CORNERS);
    }
};

// Softmax over the images that a query sees, with null: weights [images, L * P padded], image by image. Returns the
// weight of null.
template <typename S, typename W>
W attend(const MMFSAttention<S, W>& op, int64_t query, int64_t head, const Seen* images, int64_t num_images, W* weights) {
    const int64_t count = op.samples_of_image();
    const int64_t stride = padded<W>(count);
    const int64_t num_weights = num_images * stride;
    const W* logits = op.logits + (query * op.bank.num_heads + head) * count;
    Vector<W> peaks = broadcast(minus_infinity<W>());
    for (int64_t j = 0; j < num_images; ++j) {
        W* row = weights + j * stride;
        if (op.logit_table == nullptr) {
            std::copy_n(logits, count, row);
        } else {
            const int64_t age_row = std::min(images[j].slot, op.logit_ages - 1);
            const W* of_age = op.logit_table + (age_row * op.bank.num_heads + head) * count;
            for (int64_t i = 0; i < count; ++i) {
                row[i] = logits[i] + of_age[i];
            }
        }
        std::fill(row + count, row + stride, minus_infinity<W>());
        for (int64_t i = 0; i < stride; i += LANES<W>) {
            const Vector<W> here = load(row + i);
            peaks = here > peaks ? here : peaks;
        }
    }
    W peak = minus_infinity<W>();
    for (int lane = 0; lane < LANES<W>; ++lane) {
        peak = peaks[lane] > peak ? peaks[lane] : peak;
    }
    Softmax<W> seen = {peak, 0};
    const Vector<W> subtracted = broadcast(peak == minus_infinity<W>() ? W(0) : peak);
    Vector<W> totals = {};
    for (int64_t i = 0; i < num_weights; i += LANES<W>) {
        const Vector<W> share = exp_of_negative(load(weights + i) - subtracted);
        store(weights + i, share);
        totals += share;
    }
    for (int lane = 0; lane < LANES<W>; ++lane) {
        seen.total += totals[lane];
    }
    W scale = 1, null_share = 0;
    Softmax<W> all = seen;
    if (op.has_null) {
        all = merge(seen, Softmax<W>{op.null_logit, 1}, scale, null_share);
    }
    if (all.total == 0) {  // nothing to attend to
        return 1;
    }
    const Vector<W> factor = broadcast(scale / all.total);
    for (int64_t i = 0; i < num_weights; i += LANES<W>) {
        store(weights + i, load(weights + i) * factor);
    }
    return null_share / all.total;
}

// A tile: queries [first, last) of a piece's group.
template <typename S, typename W>
class Tile {
   public:
    Tile(
        const MMFSAttention<S, W>& op, const MMFSAttentionPlan<S, W>& plan, const Piece& piece, int64_t first,
        int64_t last, MMFSAttentionMemory<S, W>& memory
    )
        : size(last - first), op_(op), head_(piece.head), memory_(memory), most_images_(plan.most_images) {
        const Group& group = plan.groups[static_cast<std::size_t>(piece.group)];
        for (int64_t i = 0; i < size; ++i) {
            const int64_t of_group = first + i;
            const int64_t row = group.rows[static_cast<std::size_t>(of_group / op.num_queries)];
            const int64_t query = row * op.num_queries + of_group % op.num_queries;
            memory.queries.data()[i] = query;
            memory.counts.data()[i] = list_images(query, list_of(i));
            memory.null_weights.data()[i] =
                attend(op, query, head_, list_of(i), num_seen(i), like_weights(memory.weights.data(), i, 0));
        }
        if (op.lists != nullptr) {
            sort_by_image();
        }
    }

    const int64_t size;

    int64_t query(int64_t i) const { return memory_.queries.data()[i]; }
    int64_t bag(int64_t i) const { return query(i) * op_.bank.num_heads + head_; }
    int64_t num_seen(int64_t i) const { return memory_.counts.data()[i]; }
    const Seen& seen(int64_t i, int64_t j) const { return list_of(i)[j]; }
    W null_weight(int64_t i) const { return memory_.null_weights.data()[i]; }
    W* channels(int64_t i) const { return memory_.channels.data() + i * padded<W>(op_.bank.num_channels); }

    // The entries of image j of query i, in an array laid out like the weights.
    W* like_weights(W* array, int64_t i, int64_t j) const {
        return array + (i * most_images_ + j) * padded<W>(op_.samples_of_image());
    }

    // Calls visit(i, j) for every query of the tile and image j that it sees, whose samples memory then holds. Image by
    // image, so that its rows stay in the cache.
    template <bool BACKWARD, typename Visit>
    void for_samples(HeadRows<S, W>& rows, const HeadGradient<W>* gradient, const Visit& visit) const {
        if (op_.lists != nullptr) {
            for (const int64_t at : memory_.order) {
                const int64_t i = at / most_images_, j = at % most_images_;
                read<BACKWARD>(i, j, rows, gradient);
                visit(i, j);
            }
            return;
        }
        for (int64_t image = images_.first; image < images_.last; ++image) {
            for (int64_t i = 0; i < size; ++i) {
                if (num_seen(i) > 0) {
                    const int64_t j = image - seen(i, 0).image;
                    if (j >= 0 && j < num_seen(i)) {
                        read<BACKWARD>(i, j, rows, gradient);
                        visit(i, j);
                    }
                }
            }
        }
    }

   private:
    Seen* list_of(int64_t i) const { return memory_.seen.data() + i * most_images_; }

    // Writes the images that a query sees, and returns how many they are. Of a range, the oldest comes first.
    int64_t list_images(int64_t query, Seen* list) {
        const Range images = op_.images_of(query);
        images_ = hull(images_, images);
        if (op_.lists == nullptr) {
            for (int64_t j = 0; j < images.size(); ++j) {
                list[j] = {images.first + j, images.size() - 1 - j};
            }
            return images.size();
        }
        int64_t count = 0;
        for (int64_t slot = 0; slot < op_.num_slots; ++slot) {
            const int64_t image = op_.lists[query * op_.num_slots + slot];
            if (image >= 0) {
                list[count++] = {image, slot};
            }
        }
        return count;
    }

    void sort_by_image() const {
        memory_.order.clear();
        for (int64_t i = 0; i < size; ++i) {
            for (int64_t j = 0; j < num_seen(i); ++j) {
                memory_.order.push_back(i * most_images_ + j);
            }
        }
        const Seen* all = memory_.seen.data();
        std::sort(memory_.order.begin(), memory_.order.end(), [&](int64_t one, int64_t other) {
            return all[one].image != all[other].image ? all[one].image < all[other].image : one < other;
        });
    }

    // Writes where the samples of one image lie.
    void locate(int64_t i, int64_t slot) const {
        const int64_t num_points = op_.num_points, numbers = num_points * 2;
        const W* points = op_.reference_points + op_.first_point(query(i), slot);
        const W* offsets = op_.offsets + bag(i) * op_.offsets_of_bag();
        const int64_t age_row = std::min(slot, op_.offset_ages - 1);
        const W* of_age = op_.offset_table == nullptr
                              ? nullptr
                              : op_.offset_table + (age_row * op_.bank.num_heads + head_) * op_.offsets_of_bag();
        W *x = memory_.samples.x(), *y = memory_.samples.y();
        for (int64_t level = 0; level < op_.bank.num_levels; ++level, x += num_points, y += num_points) {
            if (level >= op_.location_levels()) {
                std::copy_n(x - num_points, num_points, x);
                std::copy_n(y - num_points, num_points, y);
                continue;
            }
            W* locations = memory_.locations.data();
            for (int64_t k = 0; k < numbers; ++k) {
                locations[k] = of_age == nullptr ? offsets[k] : offsets[k] + of_age[k];
            }
            const int64_t next_point = op_.point_points == 1 ? 0 : 2;
            for (int64_t p = 0; p < num_points; ++p) {
                x[p] = points[p * next_point] + locations[2 * p];
                y[p] = points[p * next_point + 1] + locations[2 * p + 1];
            }
            points += op_.point_levels == 1 ? 0 : op_.point_points * 2;
            if (op_.offset_levels != 1) {
                offsets += numbers;
                of_age = of_age == nullptr ? nullptr : of_age + numbers;
            }
        }
    }

    template <bool BACKWARD>
    void read(int64_t i, int64_t j, HeadRows<S, W>& rows, const HeadGradient<W>* gradient) const {
        locate(i, seen(i, j).slot);
        std::copy_n(like_weights(memory_.weights.data(), i, j), op_.samples_of_image(), memory_.samples.weights());
        const Plane* planes = op_.bank.planes.data() + seen(i, j).image * op_.bank.num_levels;
        memory_.samples.template place<BACKWARD>(planes, rows, gradient);
    }

    const MMFSAttention<S, W>& op_;
    int64_t head_;
    MMFSAttentionMemory<S, W>& memory_;
    int64_t most_images_;
    Range images_ = {0, 0};  // of all queries
};

// What the queries of a piece read: rows of one head of these images.
struct Reads {
    Range images;
    int64_t count;
};

template <typename S, typename W>
Reads reads_of(const MMFSAttention<S, W>& op, const MMFSAttentionPlan<S, W>& plan, const Piece& piece) {
    const Group& group = plan.groups[static_cast<std::size_t>(piece.group)];
    Reads reads = {{0, 0}, 0};
    for (int64_t i = piece.first_query; i < piece.last_query; ++i) {
        const int64_t row = group.rows[static_cast<std::size_t>(i / op.num_queries)];
        const int64_t query = row * op.num_queries + i % op.num_queries;
        reads.images = hull(reads.images, op.images_of(query));
        reads.count += op.num_seen(query) * op.samples_of_image() * NUM_CORNERS;
    }
    return reads;
}

template <typename S, typename W>
HeadRows<S, W> rows_of(
    const MMFSAttention<S, W>& op, const MMFSAttentionPlan<S, W>& plan, const Piece& piece,
    MMFSAttentionMemory<S, W>& memory
) {
    const Reads reads = reads_of(op, plan, piece);
    const int64_t reads_of_image = op.samples_of_image() * NUM_CORNERS;
    return HeadRows<S, W>(op.value, op.bank, piece.head, reads.images, reads.count, reads_of_image, memory.rows);
}

template <typename S, typename W>
Strategy strategy_of(const MMFSAttention<S, W>& op, bool is_forward) {
    const MMFSAttentionPlan<S, W> plan(op, is_forward);
    Strategy strategy{};
    strategy.num_pieces = static_cast<int64_t>(plan.pieces.size());
    strategy.num_threads = std::min(plan.num_threads, strategy.num_pieces);
    for (const Piece& piece : plan.pieces) {
        const Reads reads = reads_of(op, plan, piece);
        strategy.count(access_to<S, W>(op.bank, reads.images, reads.count));
    }
    strategy.gradient_in_place = sums_in_place<S, W>(op.bank, plan.num_chunks, product(plan.num_samples, NUM_CORNERS));
    return strategy;
}

// Calls work(tile) for all tiles of a piece.
template <typename S, typename W, typename Work>
void for_tiles(
    const MMFSAttention<S, W>& op, const MMFSAttentionPlan<S, W>& plan, const Piece& piece,
    MMFSAttentionMemory<S, W>& memory, const Work& work
) {
    for (int64_t first = piece.first_query; first < piece.last_query; first += plan.tile) {
        work(Tile<S, W>(op, plan, piece, first, std::min(first + plan.tile, piece.last_query), memory));
    }
}

template <typename S, typename W>
void forward(const MMFSAttention<S, W>& op) {
    const MMFSAttentionPlan<S, W> plan(op, true);
    const int64_t num_channels = op.bank.num_channels;
    using Memory = MMFSAttentionMemory<S, W>;
    const auto make_memory = [&] { return Memory(op, plan); };
    parallel_for(*op.workers, plan.pieces, plan.num_threads, make_memory, [&](const Piece& piece, Memory& memory) {
        HeadRows<S, W> rows = rows_of(op, plan, piece, memory);
        for_tiles(op, plan, piece, memory, [&](const Tile<S, W>& tile) {
            for (int64_t i = 0; i < tile.size; ++i) {
                // A product with zero, not zero: a softmax over NaN makes NaN, also where all samples lie outside.
                std::fill_n(tile.channels(i), rows.width(), tile.null_weight(i) * W(0));
                for (int64_t d = 0; op.null_value != nullptr && d < num_channels; ++d) {
                    tile.channels(i)[d] = tile.null_weight(i) * op.null_value[piece.head * num_channels + d];
                }
            }
            tile.template for_samples<false>(rows, nullptr, [&](int64_t i, int64_t) {
                add_rows(memory.samples.rows(), memory.samples.count(), rows.width(), tile.channels(i));
            });
            for (int64_t i = 0; i < tile.size; ++i) {
                narrow_row(tile.channels(i), op.out + tile.bag(i) * num_channels, num_channels);
            }
        });
    });
}

// Gradients that all queries share. Each piece has its own sums, which are added up in the order of the pieces.
template <typename W>
struct SharedGradient {
    std::vector<W> offset_table;  // [ages seen, offset_levels, P, 2]
    std::vector<W> logit_table;   // [ages seen, L, P]
    std::vector<W> null_value;    // [D]
};

// total [rows, H, row] = the pieces' sums [rows seen, row], by head.
template <typename S, typename W>
void add_up(
    const MMFSAttention<S, W>& op, const std::vector<Piece>& pieces, const std::vector<SharedGradient<W>>& of_pieces,
    std::vector<W> SharedGradient<W>::*part, int64_t num_rows, int64_t row_size, W* total
) {
    if (total == nullptr) {
        return;
    }
    std::fill_n(total, num_rows * op.bank.num_heads * row_size, W(0));
    for (std::size_t k = 0; k < pieces.size(); ++k) {
        const std::vector<W>& of_piece = of_pieces[k].*part;
        for (int64_t i = 0; i < static_cast<int64_t>(of_piece.size()); ++i) {
            const int64_t row = i / row_size;
            W* of_head = total + (row * op.bank.num_heads + pieces[k].head) * row_size;
            of_head[i % row_size] += of_piece[static_cast<std::size_t>(i)];
        }
    }
}

// With w the softmax weights, v the samples and g the gradient of the output: dL/dw = g.v, and through the softmax
// dL/dlogit = w (g.v - sum of w g.v over all entries, null among them).
template <typename S, typename W>
void backward(const MMFSAttention<S, W>& op) {
    const MMFSAttentionPlan<S, W> plan(op, false);
    const int64_t num_channels = op.bank.num_channels, num_heads = op.bank.num_heads, num_points = op.num_points;
    const int64_t num_samples = op.samples_of_image();
    const int64_t all_queries = op.batch * op.num_queries;
    const int64_t most_rows = op.lists == nullptr ? plan.most_images : op.num_slots;  // of a table, that are used
    const int64_t offset_rows = std::min(op.offset_ages, most_rows);
    const int64_t logit_rows = std::min(op.logit_ages, most_rows);
    const int64_t offsets_of_bag = op.offsets_of_bag();
    const bool one_point = op.points_of_slot() == 2;
    const int64_t next_point = op.point_points == 1 ? 0 : 1;
    const int64_t next_level_of_points = op.point_levels == 1 ? 0 : op.point_points;
    const int64_t next_level_of_offsets = op.offset_levels == 1 ? 0 : num_points;
    const int64_t num_reads = product(plan.num_samples, NUM_CORNERS);
    ValueGradient<S, W> value_gradient(op.bank, op.grad_value, plan.groups, plan.num_chunks, num_reads);
    std::vector<SharedGradient<W>> shared(plan.pieces.size());
    const int64_t all_points = all_queries * op.points_of_query();
    std::vector<W> grad_points(static_cast<std::size_t>(num_heads * all_points));  // [H, like reference_points]

    using Memory = MMFSAttentionMemory<S, W>;
    const auto make_memory = [&] {
        Memory memory(op, plan);
        memory.products.reserve(plan.tile * plan.most_images * padded<W>(num_samples));
        return memory;
    };
    parallel_for(*op.workers, plan.pieces, plan.num_threads, make_memory, [&](const Piece& piece, Memory& memory) {
        SharedGradient<W>& sums = shared[static_cast<std::size_t>(&piece - plan.pieces.data())];
        if (op.offset_table != nullptr) {
            sums.offset_table.resize(static_cast<std::size_t>(offset_rows * offsets_of_bag));
        }
        if (op.logit_table != nullptr) {
            sums.logit_table.resize(static_cast<std::size_t>(logit_rows * num_samples));
        }
        if (op.null_value != nullptr) {
            sums.null_value.resize(static_cast<std::size_t>(num_channels));
        }
        const Range images = plan.groups[static_cast<std::size_t>(piece.group)].images;
        HeadRows<S, W> rows = rows_of(op, plan, piece, memory);
        const HeadGradient<W> gradient = value_gradient.start(piece, images, memory.gradient);
        const W* null_value = op.null_value == nullptr ? nullptr : op.null_value + piece.head * num_channels;
        W* dots = memory.dots.data();

        for_tiles(op, plan, piece, memory, [&](const Tile<S, W>& tile) {
            for (int64_t i = 0; i < tile.size; ++i) {
                std::fill_n(tile.channels(i), rows.width(), W(0));
                widen_row(op.grad_out + tile.bag(i) * num_channels, tile.channels(i), num_channels);
                std::fill_n(op.grad_offsets + tile.bag(i) * offsets_of_bag, offsets_of_bag, W(0));
            }
            const HeadGradient<W>* wanted = gradient.wanted() ? &gradient : nullptr;
            tile.template for_samples<true>(rows, wanted, [&](int64_t i, int64_t j) {
                const BagSamples<S, W>& samples = memory.samples;
                pull_rows(
                    samples.rows(), samples.count(), rows.width(), tile.channels(i), gradient.wanted(), dots
                );
                const W* weights = tile.like_weights(memory.weights.data(), i, j);
                W* products = tile.like_weights(memory.products.data(), i, j);
                std::fill_n(products, num_samples, W(0));
                const Seen seen = tile.seen(i, j);
                const Plane* planes = op.bank.planes.data() + seen.image * op.bank.num_levels;
                W* grad_offsets = op.grad_offsets + tile.bag(i) * offsets_of_bag;
                const int64_t age_row = std::min(seen.slot, op.offset_ages - 1);
                W* of_age =
                    op.offset_table == nullptr ? nullptr : sums.offset_table.data() + age_row * offsets_of_bag;
                W* grad_point =
                    grad_points.data() + piece.head * all_points + op.first_point(tile.query(i), seen.slot);
                W of_image[2] = {0, 0};
                int64_t level = 0;  // the samples are in order
                for (int64_t s = 0; s < samples.count(); ++s) {
                    const int64_t k = samples.index(s);
                    while (k >= (level + 1) * num_points) {
                        ++level;
                    }
                    const int64_t p = k - level * num_points;
                    const int64_t offset = level * next_level_of_offsets + p;
                    const Plane& plane = planes[level];
                    const Sample<W>& sample = samples.sample(s);
                    const W* of_corner = dots + s * NUM_CORNERS;
                    products[k] = interpolate(sample, of_corner);
                    const W slope[2] = {
                        weights[k] * slope_x(sample, of_corner, plane.width),
                        weights[k] * slope_y(sample, of_corner, plane.height)
                    };
                    for (int axis = 0; axis < 2; ++axis) {
                        grad_offsets[2 * offset + axis] += slope[axis];
                        of_image[axis] += slope[axis];
                        if (of_age != nullptr) {
                            of_age[2 * offset + axis] += slope[axis];
                        }
                    }
                    if (!one_point) {
                        const int64_t point = level * next_level_of_points + p * next_point;
                        grad_point[2 * point] += slope[0];
                        grad_point[2 * point + 1] += slope[1];
                    }
                }
                if (one_point) {
                    grad_point[0] += of_image[0];
                    grad_point[1] += of_image[1];
                }
            });
            for (int64_t i = 0; i < tile.size; ++i) {
                W mean = 0;
                for (int64_t d = 0; null_value != nullptr && d < num_channels; ++d) {
                    const W of_null = tile.null_weight(i) * tile.channels(i)[d];
                    mean += of_null * null_value[d];
                    sums.null_value[static_cast<std::size_t>(d)] += of_null;
                }
                for (int64_t j = 0; j < tile.num_seen(i); ++j) {
                    const W* weights = tile.like_weights(memory.weights.data(), i, j);
                    const W* products = tile.like_weights(memory.products.data(), i, j);
                    for (int64_t k = 0; k < num_samples; ++k) {
                        mean += weights[k] * products[k];
                    }
                }
                W* grad_logits = op.grad_logits + tile.bag(i) * num_samples;
                std::fill_n(grad_logits, num_samples, W(0));
                for (int64_t j = 0; j < tile.num_seen(i); ++j) {
                    const W* weights = tile.like_weights(memory.weights.data(), i, j);
                    const W* products = tile.like_weights(memory.products.data(), i, j);
                    const int64_t age_row = std::min(tile.seen(i, j).slot, op.logit_ages - 1);
                    W* of_age = op.logit_table == nullptr ? nullptr : sums.logit_table.data() + age_row * num_samples;
                    for (int64_t k = 0; k < num_samples; ++k) {
                        const W slope = weights[k] * (products[k] - mean);
                        grad_logits[k] += slope;
                        if (of_age != nullptr) {
                            of_age[k] += slope;
                        }
                    }
                }
            }
        });
        value_gradient.finish(piece, gradient);
    });

    std::fill_n(op.grad_reference_points, all_points, W(0));
    for (int64_t head = 0; head < num_heads; ++head) {
        for (int64_t i = 0; i < all_points; ++i) {
            op.grad_reference_points[i] += grad_points[static_cast<std::size_t>(head * all_points + i)];
        }
    }
    using Shared = SharedGradient<W>;
    add_up(op, plan.pieces, shared, &Shared::offset_table, op.offset_ages, offsets_of_bag, op.grad_offset_table);
    add_up(op, plan.pieces, shared, &Shared::logit_table, op.logit_ages, num_samples, op.grad_logit_table);
    add_up(op, plan.pieces, shared, &Shared::null_value, 1, num_channels, op.grad_null_value);
}

}  // namespace mmfs
