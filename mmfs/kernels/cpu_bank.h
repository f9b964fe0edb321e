// Where the pixels of an image bank lie, how its work is cut into pieces, and one head of it as working rows.
//
// Letters: N images, L levels, H heads, D channels of a head, R pixels of all images, B rows of the batch, Q queries.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include "cpu_rows.h"
#include "cpu_threads.h"

namespace mmfs {

struct Plane {
    int height;
    int width;
    int64_t first_pixel;  // of R
};

struct Bank {
    int64_t num_images;
    int64_t num_levels;
    int64_t num_heads;
    int64_t num_channels;
    std::vector<Plane> planes;         // [N, L]
    std::vector<int64_t> first_pixel;  // [N + 1]
};

// sizes: [L, 2] of (h, w) for all images or, with sizes_per_image, [N, L, 2]. False if they are not positive, do not
// add up to num_pixels, or if a level has more pixels than an int can number.
inline bool lay_out(
    const int64_t* sizes, bool sizes_per_image, int64_t num_images, int64_t num_levels, int64_t num_pixels, Bank& bank
) {
    if (num_levels > 0 && num_images > num_pixels / num_levels) {
        return false;  // a level has at least one pixel; asked before memory for so many levels is
    }
    bank.num_images = num_images;
    bank.num_levels = num_levels;
    bank.planes.reserve(static_cast<std::size_t>(num_images * num_levels));
    bank.first_pixel.reserve(static_cast<std::size_t>(num_images + 1));
    int64_t pixel = 0;
    for (int64_t image = 0; image < num_images; ++image) {
        bank.first_pixel.push_back(pixel);
        const int64_t* of_image = sizes + (sizes_per_image ? image * num_levels * 2 : 0);
        for (int64_t level = 0; level < num_levels; ++level) {
            const int64_t height = of_image[2 * level];
            const int64_t width = of_image[2 * level + 1];
            if (height < 1 || width < 1 || height > std::numeric_limits<int>::max() / width) {
                return false;
            }
            if (height * width > num_pixels - pixel) {
                return false;
            }
            bank.planes.push_back({static_cast<int>(height), static_cast<int>(width), pixel});
            pixel += height * width;
        }
    }
    bank.first_pixel.push_back(pixel);
    return pixel == num_pixels;
}

// Of images or pixels that there are: a caller's range is checked first, see sees_only_the_bank(), since the difference
// of any two numbers may not fit.
struct Range {
    int64_t first;
    int64_t last;  // one past
    int64_t size() const { return last - first; }
};

inline Range pixels_of(const Bank& bank, Range images) {
    if (images.size() == 0) {
        return {0, 0};
    }
    return {
        bank.first_pixel[static_cast<std::size_t>(images.first)],
        bank.first_pixel[static_cast<std::size_t>(images.last)]
    };
}

inline Range hull(Range one, Range other) {
    if (one.size() == 0) {
        return other;
    }
    if (other.size() == 0) {
        return one;
    }
    return {std::min(one.first, other.first), std::max(one.last, other.last)};
}

// Rows of the batch whose images overlap, or all rows that see no image. No other group reads these images, so each
// (group, head) can be summed by one thread, without conflicts and in a fixed order.
struct Group {
    std::vector<int64_t> rows;
    Range images;
};

inline std::vector<Group> group_rows(const std::vector<Range>& images_of_row) {
    std::vector<Group> groups;
    Group blind{{}, {0, 0}};
    std::vector<int64_t> order;
    for (int64_t row = 0; row < static_cast<int64_t>(images_of_row.size()); ++row) {
        (images_of_row[static_cast<std::size_t>(row)].size() == 0 ? blind.rows : order).push_back(row);
    }
    const auto range_of = [&](int64_t row) { return images_of_row[static_cast<std::size_t>(row)]; };
    std::stable_sort(order.begin(), order.end(), [&](int64_t one, int64_t other) {
        return range_of(one).first < range_of(other).first;
    });
    for (const int64_t row : order) {
        if (groups.empty() || range_of(row).first >= groups.back().images.last) {
            groups.push_back({{}, range_of(row)});
        }
        groups.back().rows.push_back(row);
        groups.back().images = hull(groups.back().images, range_of(row));
    }
    if (!blind.rows.empty()) {
        groups.push_back(blind);
    }
    return groups;
}

// Of numbers that are not negative; the largest number where it would not fit. Enough to decide what is much work.
inline int64_t product(int64_t one, int64_t other) {
    int64_t result;
    return __builtin_mul_overflow(one, other, &result) ? std::numeric_limits<int64_t>::max() : result;
}

// Below this many products a thread costs more than it saves.
constexpr int64_t PRODUCTS_PER_THREAD = 1 << 20;

inline int64_t useful_threads(int64_t num_threads, int64_t num_samples, int64_t num_channels) {
    const int64_t products = product(product(num_samples, NUM_CORNERS), num_channels);
    return std::max<int64_t>(std::min(num_threads, products / PRODUCTS_PER_THREAD), 1);
}

// One head of some of a group's queries. The queries of a group are numbered row by row.
struct Piece {
    int64_t group;
    int64_t head;
    int64_t unit;   // which (group, head)
    int64_t chunk;  // which of the unit's pieces
    int64_t first_query;
    int64_t last_query;
};

// A unit is one piece unless there are fewer units than threads. Several pieces of a unit add to the same gradients, so
// the rounding of the sums depends on num_threads; with num_threads = 1 every unit is one piece.
inline std::vector<Piece> cut(
    const std::vector<Group>& groups, int64_t num_heads, int64_t num_queries, int64_t num_threads, int64_t& num_chunks
) {
    const int64_t num_units = static_cast<int64_t>(groups.size()) * num_heads;
    num_chunks = num_units == 0 ? 1 : std::max<int64_t>((num_threads + num_units - 1) / num_units, 1);
    std::vector<Piece> pieces;
    for (int64_t unit = 0; unit < num_units; ++unit) {
        const int64_t group = unit / num_heads;
        const int64_t queries = num_queries * static_cast<int64_t>(groups[static_cast<std::size_t>(group)].rows.size());
        for (int64_t chunk = 0; chunk < num_chunks; ++chunk) {
            pieces.push_back(
                {group, unit % num_heads, unit, chunk, queries * chunk / num_chunks, queries * (chunk + 1) / num_chunks}
            );
        }
    }
    return pieces;
}

// In the bank the rows of a head are a whole pixel apart, often a multiple of 4096 bytes, and then share few sets of
// the cache. A packed copy pays when each row is read more than about once.
inline bool worth_packing(int64_t num_reads, int64_t num_rows) { return num_reads > 2 * num_rows; }

enum class RowAccess {
    PACKED,    // from a padded copy of all rows
    IN_PLACE,  // from value itself
    STAGED     // each copied and padded when it is asked for
};

// num_reads: how many rows of one head of these images will be asked for.
template <typename S, typename W>
RowAccess access_to(const Bank& bank, Range images, int64_t num_reads) {
    if (worth_packing(num_reads, pixels_of(bank, images).size())) {
        return RowAccess::PACKED;
    }
    const bool is_row = std::is_same<S, Row<S, W>>::value && padded<W>(bank.num_channels) == bank.num_channels;
    return is_row ? RowAccess::IN_PLACE : RowAccess::STAGED;
}

// Rows that lie in memory as they are read or added to.
template <typename W>
struct DirectRows {
    W* first;
    int64_t first_pixel;
    int64_t stride;

    int64_t offset(int64_t pixel) const { return (pixel - first_pixel) * stride; }
};

// One head of some images as padded rows.
template <typename S, typename W>
class HeadRows {
   public:
    using R = Row<S, W>;

    struct Memory {
        Buffer<R> packed;
        Buffer<R> staged;
        Buffer<R> zeros;
    };

    // num_reads: how many rows will be read in all; reads_at_once: at most between two calls of next_samples().
    HeadRows(
        const S* value, const Bank& bank, int64_t head, Range images, int64_t num_reads, int64_t reads_at_once,
        Memory& memory
    )
        : width_(padded<W>(bank.num_channels)),
          num_channels_(bank.num_channels),
          stride_(bank.num_heads * bank.num_channels),
          head_(value + head * bank.num_channels),
          access_(access_to<S, W>(bank, images, num_reads)) {
        R* zeros = memory.zeros.reserve(width_);
        std::fill_n(zeros, width_, R{});
        zeros_ = zeros;
        const Range pixels = pixels_of(bank, images);
        if (access_ == RowAccess::PACKED) {
            first_packed_ = pixels.first;
            R* packed = memory.packed.reserve(pixels.size() * width_);
            for (int64_t pixel = pixels.first; pixel < pixels.last; ++pixel) {
                // The hardware prefetcher does not follow strides as long as a page.
                __builtin_prefetch(head_ + std::min(pixel + 8, pixels.last - 1) * stride_);
                copy(pixel, packed + (pixel - pixels.first) * width_);
            }
            packed_ = packed;
        } else if (access_ == RowAccess::STAGED) {
            staged_ = memory.staged.reserve(reads_at_once * width_);
        }
    }

    int64_t width() const { return width_; }
    const R* zeros() const { return zeros_; }

    // Rows returned so far may be overwritten from now on.
    void next_samples() { num_staged_ = 0; }

    bool is_staged() const { return access_ == RowAccess::STAGED; }

    const R* staged_row(int64_t pixel) {
        R* row = staged_ + num_staged_++ * width_;
        copy(pixel, row);
        return row;
    }

    // Of all pixels, where they are not staged.
    DirectRows<const R> direct() const {
        if constexpr (std::is_same<S, R>::value) {
            if (access_ == RowAccess::IN_PLACE) {
                return {head_, 0, stride_};
            }
        }
        return {packed_, first_packed_, width_};
    }

   private:
    void copy(int64_t pixel, R* row) const {
        keep_row(head_ + pixel * stride_, row, num_channels_);
        std::fill(row + num_channels_, row + width_, R{});
    }

    int64_t width_;
    int64_t num_channels_;
    int64_t stride_;
    const S* head_;
    RowAccess access_;
    const R* zeros_ = nullptr;
    const R* packed_ = nullptr;
    int64_t first_packed_ = 0;
    R* staged_ = nullptr;
    int64_t num_staged_ = 0;
};

// The gradient of one head of some images, summed in W: packed, or in place in the gradient of value.
template <typename W>
class HeadGradient {
   public:
    // Nothing is summed.
    HeadGradient() = default;

    // Packed.
    HeadGradient(const Bank& bank, Range images, Buffer<W>& memory)
        : stride_(padded<W>(bank.num_channels)),
          first_(pixels_of(bank, images).first),
          last_(pixels_of(bank, images).last) {
        const int64_t count = (last_ - first_ + 1) * stride_;
        sums_ = memory.reserve(count);
        std::fill_n(sums_, count, W(0));
        unused_row_ = sums_ + (last_ - first_) * stride_;
    }

    // In place: grad_value [R, H, D] holds zeros.
    HeadGradient(const Bank& bank, int64_t head, W* grad_value, Buffer<W>& memory)
        : stride_(bank.num_heads * bank.num_channels), sums_(grad_value + head * bank.num_channels) {
        unused_row_ = memory.reserve(bank.num_channels);
        std::fill_n(unused_row_, bank.num_channels, W(0));
    }

    bool wanted() const { return sums_ != nullptr; }
    W* row(int64_t pixel) const { return sums_ + (pixel - first_) * stride_; }
    DirectRows<W> direct() const { return {sums_, first_, stride_}; }
    W* unused_row() const { return unused_row_; }  // for corners outside their level

    // Both are packed and of the same images.
    void add(const HeadGradient& other) {
        for (int64_t i = 0; i < (last_ - first_) * stride_; ++i) {
            sums_[i] += other.sums_[i];
        }
    }

    template <typename S>
    void write(const Bank& bank, int64_t head, S* grad_value) const {
        for (int64_t pixel = first_; pixel < last_; ++pixel) {
            narrow_row(row(pixel), grad_value + (pixel * bank.num_heads + head) * bank.num_channels, bank.num_channels);
        }
    }

   private:
    int64_t stride_ = 0;
    int64_t first_ = 0;
    int64_t last_ = 0;
    W* sums_ = nullptr;
    W* unused_row_ = nullptr;
};

// Whether the gradient of value is summed in place, not in padded copies. num_reads: of all pieces.
template <typename S, typename W>
bool sums_in_place(const Bank& bank, int64_t num_chunks, int64_t num_reads) {
    const bool is_row = std::is_same<S, W>::value && padded<W>(bank.num_channels) == bank.num_channels;
    return is_row && num_chunks == 1 && !worth_packing(num_reads, bank.first_pixel.back() * bank.num_heads);
}

// The gradients of value of all pieces. The pieces of a unit add to the same pixels: the one that finishes last adds
// up their gradients in the order of the chunks.
template <typename S, typename W>
class ValueGradient {
   public:
    // grad_value null: not wanted. num_reads: of all pieces.
    ValueGradient(
        const Bank& bank, S* grad_value, const std::vector<Group>& groups, int64_t num_chunks, int64_t num_reads
    )
        : bank_(bank), grad_value_(grad_value), num_chunks_(num_chunks) {
        if (grad_value == nullptr) {
            return;
        }
        in_place_ = sums_in_place<S, W>(bank, num_chunks, num_reads);
        int64_t first_unwritten = 0;  // of the images
        for (const Group& group : groups) {
            if (group.images.size() != 0 && !in_place_) {
                clear(first_unwritten, group.images.first);
                first_unwritten = group.images.last;
            }
        }
        clear(first_unwritten, bank.num_images);
        if (num_chunks > 1) {
            const std::size_t num_units = groups.size() * static_cast<std::size_t>(bank.num_heads);
            chunks_.resize(num_units * static_cast<std::size_t>(num_chunks));
            unfinished_ = std::vector<std::atomic<int64_t>>(num_units);
            for (std::atomic<int64_t>& count : unfinished_) {
                count = num_chunks;
            }
        }
    }

    HeadGradient<W> start(const Piece& piece, Range images, Buffer<W>& memory) {
        if (grad_value_ == nullptr) {
            return {};
        }
        if constexpr (std::is_same<S, W>::value) {
            if (in_place_) {
                return {bank_, piece.head, grad_value_, memory};
            }
        }
        return {bank_, images, num_chunks_ == 1 ? memory : chunk(piece, piece.chunk).memory};
    }

    void finish(const Piece& piece, const HeadGradient<W>& gradient) {
        if (grad_value_ == nullptr || in_place_) {
            return;
        }
        if (num_chunks_ == 1) {
            gradient.write(bank_, piece.head, grad_value_);
            return;
        }
        chunk(piece, piece.chunk).gradient.reset(new HeadGradient<W>(gradient));
        if (--unfinished_[static_cast<std::size_t>(piece.unit)] > 0) {
            return;
        }
        HeadGradient<W>& sum = *chunk(piece, 0).gradient;
        for (int64_t i = 1; i < num_chunks_; ++i) {
            sum.add(*chunk(piece, i).gradient);
            chunk(piece, i) = Chunk();
        }
        sum.write(bank_, piece.head, grad_value_);
        chunk(piece, 0) = Chunk();
    }

   private:
    struct Chunk {
        Buffer<W> memory;
        std::unique_ptr<HeadGradient<W>> gradient;
    };

    void clear(int64_t first_image, int64_t last_image) const {
        const int64_t values_of_pixel = bank_.num_heads * bank_.num_channels;
        const int64_t first = bank_.first_pixel[static_cast<std::size_t>(first_image)];
        const int64_t last = bank_.first_pixel[static_cast<std::size_t>(last_image)];
        std::fill(grad_value_ + first * values_of_pixel, grad_value_ + last * values_of_pixel, S{});
    }

    Chunk& chunk(const Piece& piece, int64_t i) {
        return chunks_[static_cast<std::size_t>(piece.unit * num_chunks_ + i)];
    }

    const Bank& bank_;
    S* grad_value_;
    int64_t num_chunks_;
    bool in_place_ = false;
    std::vector<Chunk> chunks_;
    std::vector<std::atomic<int64_t>> unfinished_;
};

// How a call is computed, for `mmfs.explain`.
struct Strategy {
    int64_t num_pieces;
    int64_t num_threads;
    int64_t num_packed;  // pieces by their RowAccess
    int64_t num_in_place;
    int64_t num_staged;
    int64_t gradient_in_place;

    void count(RowAccess access) {
        ++(access == RowAccess::PACKED ? num_packed : access == RowAccess::IN_PLACE ? num_in_place : num_staged);
    }
};

}  // namespace mmfs
