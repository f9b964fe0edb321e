// The samples that one head of one query takes of one image: placed several at once, without branches.
//
// Letters: L levels, P points. A bag is one head of one query.

#pragma once

#include "cpu_bank.h"

namespace mmfs {

// As many whole numbers as a vector has lanes; what comparing two vectors gives.
template <typename W>
using Integers = decltype(Vector<W>{} < Vector<W>{});
template <typename W>
using Integer = std::remove_reference_t<decltype(std::declval<Integers<W>&>()[0])>;

// The sizes of the levels of an image, once for each of its L * P samples, padded with zeros to whole vectors.
template <typename W>
class LevelOfSample {
   public:
    LevelOfSample(int64_t num_levels, int64_t num_points)
        : num_levels_(num_levels), num_points_(num_points), planes_(static_cast<std::size_t>(num_levels)) {
        const int64_t size = padded<W>(num_levels * num_points);
        std::fill_n(widths_.reserve(size), size, W(0));
        std::fill_n(heights_.reserve(size), size, W(0));
        std::fill_n(columns_.reserve(size), size, Integer<W>(0));
        std::fill_n(rows_.reserve(size), size, Integer<W>(0));
    }

    int64_t num_levels() const { return num_levels_; }
    int64_t num_points() const { return num_points_; }

    // From now on, levels of these sizes. Of most banks all images have the same.
    void set(const Plane* planes) {
        for (int64_t level = 0; level < num_levels_; ++level) {
            const Plane& plane = planes[level];
            Size& known = planes_[static_cast<std::size_t>(level)];
            if (plane.height != known.height || plane.width != known.width) {
                known = {plane.height, plane.width};
                std::fill_n(widths_.data() + level * num_points_, num_points_, static_cast<W>(plane.width));
                std::fill_n(heights_.data() + level * num_points_, num_points_, static_cast<W>(plane.height));
                std::fill_n(columns_.data() + level * num_points_, num_points_, static_cast<Integer<W>>(plane.width));
                std::fill_n(rows_.data() + level * num_points_, num_points_, static_cast<Integer<W>>(plane.height));
            }
        }
    }

    // Of the samples of a vector that begins with sample k.
    Vector<W> widths(int64_t k) const { return load(widths_.data() + k); }
    Vector<W> heights(int64_t k) const { return load(heights_.data() + k); }
    Integers<W> columns(int64_t k) const { return load_integers(columns_.data() + k); }
    Integers<W> rows(int64_t k) const { return load_integers(rows_.data() + k); }

   private:
    struct Size {
        int height = 0;
        int width = 0;
    };

    static Integers<W> load_integers(const Integer<W>* from) {
        Integers<W> vector;
        std::memcpy(&vector, from, sizeof(vector));
        return vector;
    }

    int64_t num_levels_;
    int64_t num_points_;
    std::vector<Size> planes_;
    Buffer<W> widths_;
    Buffer<W> heights_;
    Buffer<Integer<W>> columns_;
    Buffer<Integer<W>> rows_;
};

// place_sample() of sampling.h for a vector of samples: the same operations, so the same numbers.
template <typename W>
struct PlacedVector {
    Integers<W> inside;  // all bits where a sample touches a pixel, else 0; so are those of `touched`
    Integers<W> first;   // row * width + column of the upper left pixel, which may be outside of the level
    Integers<W> touched[NUM_CORNERS];
    Vector<W> share[NUM_CORNERS];
    Vector<W> right;
    Vector<W> below;

    PlacedVector(
        Vector<W> x, Vector<W> y, Vector<W> width, Vector<W> height, Integers<W> num_columns, Integers<W> num_rows
    ) {
        Vector<W> column = x * width - W(0.5);
        Vector<W> row = y * height - W(0.5);
        inside = (column > W(-1)) & (column < width) & (row > W(-1)) & (row < height);
        column = inside ? column : Vector<W>{};  // a number that fits an integer
        row = inside ? row : Vector<W>{};
        const Integers<W> left = floor_of_each(column), upper = floor_of_each(row);
        const Vector<W> left_edge = __builtin_convertvector(left, Vector<W>);
        const Vector<W> upper_edge = __builtin_convertvector(upper, Vector<W>);
        right = column - left_edge;
        below = row - upper_edge;
        const Vector<W> to_right = left_edge + W(1) - column;
        const Vector<W> to_lower = upper_edge + W(1) - row;
        const Integers<W> left_in = inside & (left >= 0), right_in = inside & (left + 1 < num_columns);
        const Integers<W> upper_in = upper >= 0, lower_in = upper + 1 < num_rows;
        first = upper * num_columns + left;
        touched[UPPER_LEFT] = left_in & upper_in;
        touched[UPPER_RIGHT] = right_in & upper_in;
        touched[LOWER_LEFT] = left_in & lower_in;
        touched[LOWER_RIGHT] = right_in & lower_in;
        share[UPPER_LEFT] = touched[UPPER_LEFT] ? to_right * to_lower : Vector<W>{};
        share[UPPER_RIGHT] = touched[UPPER_RIGHT] ? right * to_lower : Vector<W>{};
        share[LOWER_LEFT] = touched[LOWER_LEFT] ? to_right * below : Vector<W>{};
        share[LOWER_RIGHT] = touched[LOWER_RIGHT] ? right * below : Vector<W>{};
    }

    static Integers<W> floor_of_each(Vector<W> x) {
        const Integers<W> towards_zero = __builtin_convertvector(x, Integers<W>);
        return towards_zero + (__builtin_convertvector(towards_zero, Vector<W>) > x);  // a comparison that holds is -1
    }
};

// The row of a pixel where all bits of a mask are set, and another one where none is. Compilers make a branch of a
// conditional expression here, and corners outside of a level come unforeseen.
template <typename R>
R* row_or(int64_t mask, const DirectRows<R>& rows, int64_t pixel, R* other) {
    const auto address = reinterpret_cast<std::uintptr_t>(rows.first) +
                         static_cast<std::uintptr_t>(rows.offset(pixel)) * sizeof(R);
    const auto known = reinterpret_cast<std::uintptr_t>(other);
    return reinterpret_cast<R*>(known + ((address - known) & static_cast<std::uintptr_t>(mask)));
}

// The samples of a bag in one image that touch a pixel. The working memory of a thread.
template <typename S, typename W>
class BagSamples {
   public:
    BagSamples(int64_t num_levels, int64_t num_points) : levels_(num_levels, num_points) {
        const int64_t count = num_levels * num_points, size = padded<W>(count);
        std::fill_n(x_.reserve(size), size, W(0));
        std::fill_n(y_.reserve(size), size, W(0));
        std::fill_n(weights_.reserve(size), size, W(0));
        rows_.reserve(count);
        samples_.reserve(count);
        indices_.reserve(count);
    }

    // To be written before place(), in units of the image: [L * P].
    W* x() { return x_.data(); }
    W* y() { return y_.data(); }
    W* weights() { return weights_.data(); }

    int64_t count() const { return count_; }
    const SampleRows<Row<S, W>, W>* rows() const { return rows_.data(); }
    const Sample<W>& sample(int64_t i) const { return samples_.data()[i]; }  // without its pixels
    int64_t index(int64_t i) const { return indices_.data()[i]; }            // which of the L * P

    // planes: [L], of the image. With gradient null, none of value is wanted. Only with BACKWARD there are samples.
    template <bool BACKWARD>
    void place(const Plane* planes, HeadRows<S, W>& rows, const HeadGradient<W>* gradient) {
        levels_.set(planes);
        rows.next_samples();
        if (rows.is_staged()) {
            place<BACKWARD>(planes, gradient, [&](Integer<W> touched, int64_t pixel) {
                return touched != 0 ? rows.staged_row(pixel) : rows.zeros();
            });
        } else {
            place<BACKWARD>(planes, gradient, [direct = rows.direct(), zeros = rows.zeros()](
                                                  Integer<W> touched, int64_t pixel
                                              ) { return row_or(touched, direct, pixel, zeros); });
        }
    }

   private:
    template <bool BACKWARD, typename RowOf>
    void place(const Plane* planes, const HeadGradient<W>* gradient, const RowOf& row_of) {
        // Local copies: a compiler cannot know that what is written below does not change the members.
        const int64_t num_points = levels_.num_points(), size = levels_.num_levels() * num_points;
        const W *x = x_.data(), *y = y_.data(), *all_weights = weights_.data();
        SampleRows<Row<S, W>, W>* rows = rows_.data();
        Sample<W>* samples = samples_.data();
        int64_t* indices = indices_.data();
        int64_t count = 0, next_level = num_points;
        const Plane* plane = planes;
        for (int64_t k = 0; k < size; k += LANES<W>) {
            const PlacedVector<W> placed(
                load(x + k), load(y + k), levels_.widths(k), levels_.heights(k), levels_.columns(k), levels_.rows(k)
            );
            const Vector<W> weights = load(all_weights + k);
            Vector<W> factor[NUM_CORNERS];
            for (int corner = 0; corner < NUM_CORNERS; ++corner) {
                factor[corner] = weights * placed.share[corner];
            }
            const int64_t num_here = std::min(LANES<W>, size - k);
            for (int64_t lane = 0; lane < num_here; ++lane) {
                if (k + lane == next_level) {
                    ++plane;
                    next_level += num_points;
                }
                const int64_t first = plane->first_pixel + placed.first[lane];
                const int64_t pixel[NUM_CORNERS] = {first, first + 1, first + plane->width, first + plane->width + 1};
                // What is outside is overwritten by the next one: to go around it would be a branch that is hard to
                // foresee.
                SampleRows<Row<S, W>, W>& here = rows[count];
                for (int corner = 0; corner < NUM_CORNERS; ++corner) {
                    const Integer<W> touched = placed.touched[corner][lane];
                    here.row[corner] = row_of(touched, pixel[corner]);
                    here.factor[corner] = factor[corner][lane];
                    if (BACKWARD && gradient != nullptr) {
                        here.grad[corner] = row_or(touched, gradient->direct(), pixel[corner], gradient->unused_row());
                    }
                }
                if constexpr (BACKWARD) {
                    Sample<W>& sample = samples[count];
                    for (int corner = 0; corner < NUM_CORNERS; ++corner) {
                        sample.share[corner] = placed.share[corner][lane];
                    }
                    sample.right = placed.right[lane];
                    sample.below = placed.below[lane];
                }
                indices[count] = k + lane;
                count += placed.inside[lane] != 0;
            }
        }
        count_ = count;
    }

    LevelOfSample<W> levels_;
    Buffer<W> x_;
    Buffer<W> y_;
    Buffer<W> weights_;
    Buffer<SampleRows<Row<S, W>, W>> rows_;
    Buffer<Sample<W>> samples_;
    Buffer<int64_t> indices_;
    int64_t count_ = 0;
};

}  // namespace mmfs
